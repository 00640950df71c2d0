"""For all tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: two processes then end together, not one on a test of a minute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
