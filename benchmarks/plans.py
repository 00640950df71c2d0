"""The table of docs/memory.md, from `ecgan plan`'s predictions: `python -m benchmarks.plans`.

Each recipe is planned under settings that spare more and more, at batches of 1 and 4. The largest
batch of a card is read off the straight line through both; a third batch must lie on it. It takes
five minutes on a CPU and no GPU.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

from ecgan.config import TrainConfig
from ecgan.training.plan import Layouts, plan
from ecgan.training.settings import Layer, compose, read_recipe

PAGE = Path(__file__).parents[1] / "docs" / "memory.md"
MARKED = re.compile(
    r"(<!-- written by python -m benchmarks.plans -->\n).*?(<!-- end -->)", re.DOTALL
)
GIB = 2**30
CARDS = (8, 16, 32, 80)
BATCHES = (1, 4)
CHECK = 10  # images of the plan that must lie on the line through the other two
RECIPES = {"cityscapes": "Cityscapes", "ade20k": "ADE20K", "coco_stuff": "COCO-Stuff"}
# Each adds to the one before it.
SETTINGS: dict[str, Layer] = {
    "the recipe, float32": {},
    "`--precision fp16`": {"precision": "fp16"},
    "and `--model.checkpointing true`": {"model.checkpointing": True},
    "and `--loss.similarity_resolution full`": {"loss.similarity_resolution": "full"},
}


def usable(card: int) -> float:
    """GiB of a card for tensors; the rest is what a plan does not count, by a rough allowance."""
    return card - 1 - card / 10


def line(peaks: tuple[float, float]) -> tuple[float, float]:
    """Offset and slope over the batch, in the unit of the peaks at BATCHES."""
    slope = (peaks[1] - peaks[0]) / (BATCHES[1] - BATCHES[0])
    return peaks[0] - BATCHES[0] * slope, slope


def largest(card: int, offset: float, slope: float) -> int:
    """Images of a batch whose peak keeps within what is usable of a card."""
    return max(0, int((usable(card) - offset) / slope))


def peak(cfg: TrainConfig, batch: int) -> float:
    """Planned peak in GiB, on drawn layouts."""
    cfg = dataclasses.replace(cfg, batch_size=batch)
    return plan(cfg, Layouts(cfg)).peak / GIB


def table() -> str:
    """The rows of all recipes and settings in Markdown."""
    heads = ["recipe and size", "settings", "batch 1", "each further image"]
    heads += [f"{card} GB" for card in CARDS]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for recipe, title in RECIPES.items():
        layer = {**read_recipe(recipe), "data": "not there: layouts are drawn"}
        where = f"{title} {layer['size']}"
        for name, change in SETTINGS.items():
            layer |= change
            cfg = compose([layer], TrainConfig)
            offset, slope = line((peak(cfg, BATCHES[0]), peak(cfg, BATCHES[1])))
            if where:
                third, expected = peak(cfg, CHECK), offset + CHECK * slope
                if abs(third / expected - 1) > 0.02:
                    sys.exit(
                        f"{where}: {third:.2f} GiB at batch {CHECK}, by the line {expected:.2f}"
                    )
            cells = [where, name, f"{offset + slope:.1f} GiB", f"{slope:.1f} GiB"]
            cells += [str(largest(card, offset, slope) or "–") for card in CARDS]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
            where = ""
    return "\n".join(lines) + "\n"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = table()
    PAGE.write_text(MARKED.sub(lambda m: f"{m[1]}\n{made}\n{m[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
