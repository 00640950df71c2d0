"""A run folder made by hand, two result folders, and a headless Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.ecgan.chromium import set_window, start_chromium


@pytest.fixture(scope="session")
def open_page(tmp_path_factory) -> Iterator[Callable[..., Any]]:
    """Opens a file in a Chromium with a window of the given size; skips where there is none."""
    browser = start_chromium(tmp_path_factory.mktemp("chromium"))

    def open_(page: Path, width: int = 1280, height: int = 900) -> Any:
        set_window(browser, width, height, page.parent)
        browser.get(page.resolve().as_uri())
        return browser

    yield open_
    browser.quit()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run of 200 steps with 20 rows, 5 sample sheets and every file."""
    run = tmp_path / "my run"
    (run / "samples").mkdir(parents=True)
    (run / "checkpoints" / "step-000200").mkdir(parents=True)
    (run / "config.yaml").write_text("preset: B4\nsize: 64x64\nmodel:\n  ngf: 8\n")
    environment = {"device": "CPU, 1 thread", "steps": 200, "packages": {"torch": "2.13.0"}}
    (run / "environment.json").write_text(json.dumps(environment))
    rows = ["step,seconds,gan,d_image,lr_generator,images_per_second,memory_gib,skipped"]
    for step in range(10, 201, 10):
        rows.append(f"{step},{step * 3},{1 / step},{step / 7},0.001,4.5,{1 + step / 1000},0")
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    for step in range(40, 201, 40):
        sheet = np.full((60, 90, 3), step, np.uint8)
        Image.fromarray(sheet).save(run / "samples" / f"step-{step:06d}.png")
    return run


@pytest.fixture
def systems(tmp_path: Path) -> tuple[Path, Path]:
    """Images 0.png to 11.png of two systems: the first one's are red, the second one's blue.

    Brightness tells the names apart. Each has one image that the other lacks, too.
    """
    folders = (tmp_path / "ours" / "images", tmp_path / "theirs")
    for channel, folder in zip((0, 2), folders, strict=True):
        folder.mkdir(parents=True)
        for index in range(12):
            image = np.zeros((24, 32, 3), np.uint8)
            image[..., channel] = 100 + 10 * index
            Image.fromarray(image).save(folder / f"{index}.png")
        Image.fromarray(image).save(folder / f"alone{channel}.png")
    return folders[0].parent, folders[1]
