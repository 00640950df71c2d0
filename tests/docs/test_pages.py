"""Every code block of README.md and of docs/ runs as it stands, or says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.cli import main
from tests.docs import pages

pytestmark = pytest.mark.skipif(not (pages.ROOT / "docs").is_dir(), reason="needs the source tree")

ELSEWHERE = {"docs/drop-in.md"}  # tests/kernels/test_drop_in.py also compares what its blocks give
CLASSES = [
    {"id": index, "name": name, "color": [40 * index, 200 - 30 * index, 90]}
    for index, name in enumerate(("road", "building", "tree", "sky", "car"))
]


def draw(path: Path, seed: int, *, ids: int = 5, photo: bool) -> None:
    """A photo, or a label map of four-pixel blocks of ids below ``ids``, 64x128."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.random.default_rng(seed).integers(0, ids, (16, 32), np.uint8)
    labels = labels.repeat(4, 0).repeat(4, 1)
    if photo:
        labels = np.stack([labels * (250 // ids)] * 3, axis=2)
    Image.fromarray(labels).save(path)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with what the pages name: data sets, a trained run, results of other systems."""
    world = tmp_path_factory.mktemp("world")
    for name in ("DIR", "photos"):
        for index in range(12):
            part = world / name / ("val" if index % 4 == 3 else "train")
            draw(part / "images" / f"{index:03}.png", index, photo=True)
            draw(part / "labels" / f"{index:03}.png", index, photo=False)
        content = {"classes": CLASSES, "ignore_id": 255}
        (world / name / "classes.json").write_text(json.dumps(content))
    for index, part in enumerate(("train", "train", "val")):
        stem = f"{part}/aachen/aachen_{index:06}_000019"
        draw(world / f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png", index, photo=True)
        for kind in ("labelIds", "instanceIds"):
            draw(world / f"cityscapes/gtFine/{stem}_gtFine_{kind}.png", index, photo=False)
        long = {"train": "training", "val": "validation"}[part]
        ade = world / "ADEChallengeData2016"
        draw(ade / f"images/{long}/ADE_{part}_{index}.png", index, photo=True)
        draw(ade / f"annotations/{long}/ADE_{part}_{index}.png", index, photo=False)
        for role in ("img", "label", "inst"):
            file = world / f"coco_stuff/{part}_{role}/{index:012}.png"
            draw(file, index, photo=role == "img")
    shutil.copytree(world / "DIR/val/labels", world / "layouts")
    draw(world / "layout.png", 0, photo=False)
    run = ["--data", str(world / "DIR"), "--out", str(world / "runs/NAME")]
    assert main(["train", *run, "--model.style", "noise", *pages.SMALL.split()]) == 0
    for name in ("A", "B"):
        images = ["--labels", str(world / "layouts"), "--out", str(world / "results" / name)]
        assert main(["synthesize", str(world / "runs/NAME"), *images]) == 0
    return world


def name(page: Path) -> str:
    return str(page.relative_to(pages.ROOT))


CODE = [page for page in pages.PAGES if name(page) not in ELSEWHERE and any(pages.blocks(page))]


@pytest.mark.parametrize("page", CODE, ids=name)
def test_page(page, world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True, copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path)
    pages.run_page(page, monkeypatch)


def test_blocks_are_found():
    """Both kinds of page, and nothing between fences that the pattern passes over."""
    found = {name(page): list(pages.blocks(page)) for page in pages.PAGES}
    assert len(found["README.md"]) >= 2
    assert sum(map(len, found.values())) > 40
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        assert 2 * len(pages.BLOCK.findall(text)) == sum(
            line.startswith("```") for line in text.splitlines()
        ), name(page)


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nmake train\n```\n",
        "```python\nassert False\n```\n",
        "```sh\necgan train --optim.stps 3\n```\n",
        "<!-- not run: hours -->\n```sh\necgan train --optim.stps 3\n```\n",
        "<!-- not run: eight GPUs -->\n```sh\ntorchrun -m ecgan train --no_such 1\n```\n",
        "<!-- not run: weights -->\n```sh\necgan evaluate --insception FILE\n```\n",
        "<!-- not run: why -->\n```python\nthis is no Python\n```\n",
        "```fortran\nEND\n```\n",
    ],
)
def test_a_wrong_block_is_found(text, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, SyntaxError, pytest.fail.Exception)):
        pages.run_page(page_of(tmp_path, text), monkeypatch)


def test_a_marked_block_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    text = "<!-- not run: hours -->\n```sh\necgan train --out run --steps 3\ndocker build .\n```\n"
    pages.run_page(page_of(tmp_path, text), monkeypatch)
    assert list(tmp_path.iterdir()) == [tmp_path / "page.md"]
