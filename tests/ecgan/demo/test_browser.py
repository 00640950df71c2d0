"""The page in a browser: what is painted is what the model gets, and its image what is saved."""

from __future__ import annotations

import json
import re
import time
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ecgan.data.scenes import SCENE_CLASSES, render_scene
from ecgan.inference import to_uint8

# Gradio's own.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")

NAMES = SCENE_CLASSES.names
CAR, ROAD = NAMES.index("car"), NAMES.index("road")
CONTROL, SHIFT = "\ue009", "\ue008"  # WebDriver's names of the keys
START = render_scene(20, (32, 64)).labels


def capsule(start: tuple[float, float], end: tuple[float, float], across: int) -> NDArray[np.bool_]:
    """Pixels whose centre is within half the brush of a segment."""
    y, x = np.mgrid[:32, :64] + 0.5
    a, b = np.array(start), np.array(end)
    along = (((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / ((b - a) @ (b - a))).clip(0, 1)
    away = np.hypot(x - a[0] - along * (b - a)[0], y - a[1] - along * (b - a)[1])
    return away <= across / 2


def image_of(model, labels: NDArray[np.integer], **style: object) -> NDArray[np.uint8]:
    return to_uint8(model.synthesize(labels, **style).images)[0]


def close(file: Path, expected: NDArray[np.uint8]) -> bool:
    """Equal to the rounding of one level."""
    found = np.asarray(Image.open(file)).astype(int)
    return found.shape == expected.shape and bool((abs(found - expected) <= 1).all())


def test_brush_fill_eraser_and_undo(visitor):
    assert (visitor.painted(SCENE_CLASSES) == START).all()
    visitor.choose("car")
    visitor.set("#painter .size input", 6)
    visitor.drag((10.2, 8.4), (40.6, 20.8))
    stroke = visitor.painted(SCENE_CLASSES)
    wanted = np.where(capsule((10.2, 8.4), (40.6, 20.8), 6), CAR, START)
    # The pointer has whole pixels of the window, each about a seventh of one of the map.
    assert (stroke != wanted).sum() <= 12
    assert (wanted != START).sum() > 100

    visitor.press("f")
    visitor.choose("grass")
    visitor.drag((0.5, 31.5))
    filled = visitor.painted(SCENE_CLASSES)
    corner = START[31, 0]
    assert set(stroke[filled != stroke]) == {corner}
    assert set(filled[filled != stroke]) == {NAMES.index("grass")}
    assert filled[31, 0] != corner
    edge = filled != stroke  # nothing of the old class is left beside what was filled
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        beside = np.roll(edge, shift, axis) & (filled == corner)
        beside[[0, -1] if axis == 0 else slice(None), [0, -1] if axis else slice(None)] = False
        assert not beside.any()

    visitor.press("e")
    visitor.drag((50.5, 10.5))
    assert visitor.painted(SCENE_CLASSES)[10, 50] == len(NAMES)
    for step in (filled, stroke, START):
        visitor.find("[data-act=undo]").click()
        assert (visitor.painted(SCENE_CLASSES) == step).all()
    assert visitor.find("[data-act=undo]").get_attribute("disabled")
    visitor.press("z", CONTROL, SHIFT)
    assert (visitor.painted(SCENE_CLASSES) == stroke).all()


def test_saved_image_is_the_models(visitor, model):
    visitor.choose("car")
    visitor.drag((5, 5), (60, 25))
    labels = visitor.painted(SCENE_CLASSES)
    visitor.set("#seed input", 7)
    visitor.generate()
    file = visitor.download("#save-image")
    assert file.name == "ecgan-seed7.png"
    assert close(file, image_of(model, np.where(labels == 12, 255, labels), seed=7))
    with zipfile.ZipFile(visitor.download("#save-all")) as zipped:
        names = {"image", "edges-i1_e", "attention", "coarse-i1", "refined-i2", "by-class-i_g"}
        assert set(zipped.namelist()) == {f"{name}.png" for name in names | {"labels"}}
        with zipped.open("labels.png") as content:
            assert (np.asarray(Image.open(content)) == labels).all()


def test_a_region_has_a_seed_of_its_own_and_samples_differ(visitor, model):
    visitor.press("rf")
    visitor.drag((32, 31))
    region = np.zeros((32, 64), bool)
    region[START == ROAD] = True  # in this scene the road is one piece
    visitor.set("#region-seed input", 5)
    visitor.set("#count input", 3)
    visitor.generate()
    visitor.wait("document.querySelectorAll('#samples .thumbnail-item').length === 3")
    visitor.renews(lambda: visitor.find("#samples .gallery-item:nth-child(3) button").click())
    visitor.wait("document.querySelector('#status').textContent.includes('seed 2')")
    style = torch.where(
        torch.from_numpy(region), model.sample_style(5, (32, 64)), model.sample_style(2, (32, 64))
    )
    expected = image_of(model, START, style=style[None])
    assert close(visitor.download("#save-image"), expected)
    assert not (expected == image_of(model, START, seed=2)).all()


def test_a_wrong_file_gets_a_sentence_and_costs_nothing(visitor, tmp_path):
    visitor.choose("car")
    visitor.drag((5, 5), (60, 25))
    before = visitor.painted(SCENE_CLASSES)
    wrong = tmp_path / "notes.png"
    wrong.write_bytes(b"these are <b>notes</b>")
    upload = visitor.find("#more input[type=file]")
    upload.send_keys(str(wrong))
    visitor.wait("document.querySelector('.toast-body')")
    text = visitor.run("return document.querySelector('.toast-body').textContent")
    assert "notes.png cannot be read as an image" in text
    assert not re.search(r"Traceback|Error\b|/tmp", text)
    assert (visitor.painted(SCENE_CLASSES) == before).all()

    right = tmp_path / "map.png"
    Image.fromarray(np.flip(START, 1)).save(right)
    visitor.renews(lambda: upload.send_keys(str(right)))
    assert (visitor.painted(SCENE_CLASSES) == np.flip(START, 1)).all()
    visitor.press("z", CONTROL)
    assert (visitor.painted(SCENE_CLASSES) == before).all()


def test_every_stroke_makes_an_image_when_live(visitor):
    visitor.find("#live input").click()
    start = time.monotonic()
    visitor.renews(lambda: visitor.drag((5, 5), (60, 25)))
    assert time.monotonic() - start < 5  # about a third of a second on an idle machine


def test_nothing_comes_from_elsewhere(visitor, address):
    page = urllib.request.urlopen(address).read().decode()
    hosts = set(re.findall(r"https?:\\?/\\?/([\w.-]+)", page))
    assert hosts <= {"127.0.0.1"}
    asked = []
    for entry in visitor.browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    own = [url for url in asked if url.startswith(address)]
    assert len(own) > 20
    # Those of Chromium's own start page have schemes of their own.
    foreign = [url for url in asked if re.match(r"(https?|wss?):", url) and url not in own]
    assert not foreign
    assert "a <b>model</b>" in visitor.find("#heading").text
    errors = [e for e in visitor.browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not errors
    blocked = visitor.run(
        "return new Promise(done => {"
        "addEventListener('securitypolicyviolation', event => done(event.blockedURI));"
        "fetch('https://example.org/').catch(() => null) })"
    )
    assert blocked == "https://example.org/"


def test_on_a_phone(visitor, chromium):
    for width, height in ((360, 780), (390, 844)):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        visitor.run("return new Promise(requestAnimationFrame)")
        assert visitor.run("return document.documentElement.scrollWidth") <= width
        for selector in ("#painter canvas", "#painter .classes", "#generate"):
            box = visitor.find(selector).rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height

    visitor.choose("car")
    box = visitor.find("#painter canvas").rect
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    for kind, points in (("touchStart", [middle]), ("touchEnd", [])):
        touch = {"type": kind, "touchPoints": points}
        chromium.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
    assert visitor.painted(SCENE_CLASSES)[15:17, 31:33].tolist() == [[CAR, CAR], [CAR, CAR]]
