"""A page of a small model on a server of its own, and a browser that has it open."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ecgan.config import ModelConfig
from ecgan.data.classes import ClassTable
from ecgan.data.scenes import SCENE_CLASSES
from ecgan.inference import ECGAN
from tests.ecgan.chromium import set_window, start_chromium

SIZE = (32, 64)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ECGAN]:
    """A small model whose weights are large enough for images that are not all gray."""

    def make(classes: ClassTable = SCENE_CLASSES, **settings: object) -> ECGAN:
        torch.manual_seed(0)
        small: dict = {"size": "32x64", "ngf": 8, "spade_hidden": 8, "projection_dim": 8}
        model = ECGAN(ModelConfig(num_classes=len(classes), **{**small, **settings}), classes)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(50)
        return model

    return make


@pytest.fixture(scope="session")
def model(make_model) -> ECGAN:
    """Of the built-in scenes' classes, with 3D noise."""
    return make_model(style="noise")


@pytest.fixture(scope="session")
def gradio() -> Any:
    """Gradio, which takes seconds to load: what needs it is imported after it, in the tests."""
    return pytest.importorskip("gradio", reason="needs the extra demo")


@pytest.fixture(scope="session")
def address(gradio, model) -> Iterator[str]:
    """Where a page of the model is served."""
    from ecgan.demo.examples import find_examples
    from ecgan.demo.page import Page
    from ecgan.demo.server import Server, address, listen, make_app, private_files

    ready = threading.Event()
    with listen("127.0.0.1", 0) as listening, private_files():
        page = Page(model, find_examples(None, model.classes, SIZE), "a <b>model</b>")
        server = Server(make_app(page, "127.0.0.1"), ready.set)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        assert ready.wait(30)
        yield address(listening)
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Any]:
    """A browser that logs what it asks for."""
    browser = start_chromium(tmp_path_factory.mktemp("chromium"), performance="ALL")
    yield browser
    browser.quit()


class Visitor:
    """Somebody at the page.

    Attributes:
        browser: Selenium's.
        downloads: folder.
    """

    def __init__(self, browser: Any, downloads: Path) -> None:
        self.browser = browser
        self.downloads = downloads

    def run(self, script: str, *arguments: object) -> Any:
        """What a script in the page returns."""
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """The element."""
        return self.browser.find_element("css selector", selector)

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Waits until an expression holds in the page."""
        end = time.monotonic() + seconds
        while not self.run(f"return {condition}"):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}"
            time.sleep(0.05)

    def set(self, selector: str, value: object) -> None:
        """Types a value into an input, as if by hand."""
        self.run(
            "const [e, v] = [document.querySelector(arguments[0]), arguments[1]];"
            "e.value = v; e.dispatchEvent(new Event('input', {bubbles: true}))",
            selector,
            str(value),
        )

    def choose(self, name: str) -> None:
        """Takes a class from the list."""
        self.run(
            "[...document.querySelectorAll('#painter .classes label')]"
            ".find(e => e.textContent === arguments[0]).click()",
            name,
        )

    def press(self, keys: str, *held: str) -> None:
        """Types on the page, with other keys held."""
        from selenium.webdriver.common.action_chains import ActionChains

        actions = ActionChains(self.browser)
        for key in held:
            actions.key_down(key)
        actions.send_keys(keys)
        for key in held:
            actions.key_up(key)
        actions.perform()

    def drag(self, *points: tuple[float, float]) -> None:
        """Moves the mouse over the map with its button down, through (x, y) in the map's pixels."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        box = self.run(
            "const b = document.querySelector('#painter canvas').getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]"
        )
        actions = ActionBuilder(self.browser, duration=0)
        for index, (x, y) in enumerate(points):
            at = (box[0] + x * box[2] / SIZE[1], box[1] + y * box[3] / SIZE[0])
            actions.pointer_action.move_to_location(round(at[0]), round(at[1]))
            if index == 0:
                actions.pointer_action.pointer_down()
        actions.pointer_action.pointer_up()
        actions.perform()

    def painted(self, classes: ClassTable) -> NDArray[np.int64]:
        """The classes on the canvas; every colour there must be exactly that of a class."""
        self.run("return new Promise(requestAnimationFrame)")
        text = self.run(
            "const c = document.querySelector('#painter canvas.labels');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return btoa(String.fromCharCode(...d))"
        )
        pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(*SIZE, 4)
        same = (pixels[:, :, None, :3] == classes.palette).all(-1)
        assert same.any(-1).all()
        return same.argmax(-1)

    def generate(self) -> None:
        """Presses the button and waits for another image than there was."""
        self.renews(lambda: self.run("document.querySelector('#generate').click()"))

    def renews(self, action: Callable[[], object]) -> None:
        """Does something and waits for another image than there was."""
        self.run("window.before = document.querySelector('#image img').src")
        action()
        self.wait("document.querySelector('#image img').src !== window.before")

    def download(self, button: str) -> Path:
        """Presses a button and waits for its file."""
        known = set(self.downloads.iterdir())
        self.find(button).click()
        end = time.monotonic() + 20
        while True:
            new = {p for p in self.downloads.iterdir() if p.suffix in (".png", ".zip")} - known
            if new:
                return new.pop()
            assert time.monotonic() < end, "no download within 20 s"
            time.sleep(0.05)


@pytest.fixture
def visitor(address, chromium, tmp_path) -> Iterator[Visitor]:
    """Has the page open on a desktop, the first example's image made, Live off."""
    set_window(chromium, 1280, 900, tmp_path)
    chromium.get(address)
    visitor = Visitor(chromium, tmp_path)
    visitor.wait("document.querySelector('#status')?.textContent.includes('seed 0')")
    visitor.run(
        "const live = document.querySelector('#live input'); if (live.checked) live.click()"
    )
    yield visitor
    chromium.get("about:blank")  # An open page keeps a tenth of a core busy.
