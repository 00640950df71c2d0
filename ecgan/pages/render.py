"""One HTML file from a template: style, script, data and images inside, nothing from elsewhere."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from ecgan.errors import ConfigError


def render(name: str, **values: object) -> str:
    """Fills ``templates/NAME.html`` with values and with the style and script of its name.

    Every value is escaped. The page's content security policy admits that style, that script and
    images inside the page; the browser refuses anything else, whatever a value holds.

    Args:
        name: the template's name without suffix.
        values: what the template asks for.
    """
    environment = Environment(
        loader=PackageLoader("ecgan.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _text("common.css") + _text(f"{name}.css")
    script = _text(f"{name}.js")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    # The two are files of ours; nothing of a run gets into them.
    return environment.get_template(f"{name}.html").render(
        policy=policy, style=Markup(style), script=Markup(script), **values
    )


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file that is there in whole or not at all.

    Raises:
        ConfigError: the place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


def webp_bytes(image: NDArray[np.uint8], quality: int) -> bytes:
    """An image, uint8 [H, W, 3], as WebP without metadata; quality 101 is lossless."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=min(quality, 100), lossless=quality > 100)
    return file.getvalue()


def data_uri(content: bytes) -> str:
    """WebP bytes as an address that an ``img`` shows."""
    return "data:image/webp;base64," + base64.b64encode(content).decode()


def _text(name: str) -> str:
    source = resources.files("ecgan.pages").joinpath("templates", name)
    # The digest is of what the parser sees, and that has plain line ends.
    return source.read_text(encoding="utf-8").replace("\r\n", "\n")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
