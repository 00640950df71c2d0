"""What autodoc needs to read our docstrings: they are written for readers of the source."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

_SPREAD = re.compile(r"(?<=[\[ ])\*(?=\w)")  # [B, *S] begins no emphasis


def _escape(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = [_SPREAD.sub(r"\\*", line) for line in lines]


def _plain(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.Element | None:
    """The name of something that has no entry of its own here is code, not a broken link."""
    return text if node.get("refdomain") == "py" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers both."""
    app.connect("autodoc-process-docstring", _escape)
    app.connect("missing-reference", _plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
