"""The table of docs/memory.md."""

from __future__ import annotations

import pytest

from benchmarks import plans
from ecgan.config import TrainConfig
from ecgan.training.settings import compose, read_recipe

pytestmark = pytest.mark.skipif(not plans.PAGE.is_file(), reason="needs the source tree")


def test_the_largest_batch_of_a_card():
    offset, slope = plans.line((3.0, 9.0))  # of 1 and 4 images
    assert (offset, slope) == (1.0, 2.0)
    assert plans.usable(16) == pytest.approx(13.4)
    assert plans.largest(16, offset, slope) == 6  # 1 + 6 * 2 = 13
    assert plans.largest(8, 7.0, 2.0) == 0


def test_the_page_has_every_recipe_and_setting():
    rows = plans.MARKED.search(plans.PAGE.read_text(encoding="utf-8"))[0].splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if "GiB" in row]
    assert [row[1] for row in cells] == [*plans.SETTINGS] * len(plans.RECIPES)
    sizes = [f"{title} {read_recipe(name)['size']}" for name, title in plans.RECIPES.items()]
    assert [row[0] for row in cells if row[0]] == sizes
    for change in plans.SETTINGS.values():
        compose([change], TrainConfig)
