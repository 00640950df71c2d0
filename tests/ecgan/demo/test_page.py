"""What the page's handlers do with what comes in; the browser's side is in test_browser.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.data.scenes import render_scene
from ecgan.demo.painting import Painting
from ecgan.inference import to_uint8

LABELS = render_scene(3, (32, 64)).labels
VALUE = Painting.of(LABELS).encode()


@pytest.fixture(scope="module")
def page(gradio, make_model):
    from ecgan.demo.page import Page
    from ecgan.demo.server import private_files

    with private_files():
        yield Page(make_model(style="encoder"), [Painting.of(LABELS)], "model")


@pytest.fixture
def told(gradio, monkeypatch) -> list[str]:
    """Sentences that the page showed."""
    sentences: list[str] = []
    monkeypatch.setattr(gradio, "Warning", lambda message, **_: sentences.append(message))
    return sentences


def shown(values: list) -> np.ndarray:
    """The image among the values that a handler returned."""
    return np.asarray(Image.open(values[1]))


def test_a_photo_gives_its_style(page, told, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    photo = page.open_photo(str(tmp_path / "photo.png"))[0]
    assert (photo == pixels).all()
    made = page.make(VALUE, 3, 4, 0, photo)
    assert len(made[0].samples) == 1
    assert made[1].endswith("ecgan.png")
    wanted = page.model.synthesize(LABELS, style=page.model.encode_style(pixels))
    assert (shown(made) == to_uint8(wanted.images)[0]).all()
    assert page.drop_photo()[0] is None
    assert not (shown(page.make(VALUE, 3, 1, 0, None)) == shown(made)).all()
    assert not told


@pytest.mark.parametrize(("asked", "given"), [(None, 1), (0, 1), (-3, 1), (3, 3), (10**9, 8)])
def test_no_more_samples_than_the_page_offers(page, asked, given):
    assert len(page.make(VALUE, None, asked, None, None)[0].samples) == given


def test_what_cannot_be_used_is_told_and_changes_nothing(gradio, page, told, tmp_path: Path):
    wrong = tmp_path / "a<i>.png"
    wrong.write_text("no image")
    for handler, *arguments in (
        (page.open_photo, str(wrong)),
        (page.open_map, str(wrong)),
        (page.make, {"labels": "99 2048", "region": "0 2048"}, 0, 1, 0, None),
        (page.make, None, 0, 1, 0, None),
    ):
        assert handler(*arguments) == gradio.skip()
    assert [sentence.split(" ")[0] for sentence in told] == ["a&lt;i&gt;.png"] * 2 + ["the"] * 2
