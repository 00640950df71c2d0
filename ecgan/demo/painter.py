"""The painter: a custom component of Gradio, made of the three files in ``static/``.

Gradio's own ImageEditor paints colours, antialiased and without names, and cannot fill. This one
paints class ids.
"""

from __future__ import annotations

from importlib import resources

import gradio as gr
import numpy as np

from ecgan.data.classes import ClassTable
from ecgan.demo.painting import Painting


def make_painter(
    classes: ClassTable, first: Painting, *, void: bool, regions: bool, live: str
) -> gr.HTML:
    """Makes the component.

    Its event ``stroke`` says that the map changed: by a new value from Python, or by the user while
    ``live`` is ticked.

    Args:
        classes: what can be painted.
        first: what it shows at first.
        void: whether void can be painted, too; the eraser then leaves it, else the first class.
        regions: whether a region can be painted.
        live: CSS selector of the element around the checkbox.
    """
    count = len(classes) + void
    names = (*classes.names, "void")[:count]
    colours = classes.palette[:count].tolist()
    height, width = first.labels.shape
    return gr.HTML(
        value=first.encode(),
        html_template=_static("painter.html"),
        css_template=_static("painter.css"),
        js_on_load=_static("painter.js"),
        apply_default_css=False,
        elem_id="painter",
        height=height,
        width=width,
        classes=[{"name": n, "colour": c} for n, c in zip(names, colours, strict=True)],
        first=_start_class(first, len(classes)),
        background=count - 1 if void else 0,
        regions=regions,
        live=live,
    )


def _start_class(painting: Painting, count: int) -> int:
    """The class that the brush begins with: the rarest in the map, never what fills most of it."""
    amounts = np.bincount(painting.labels.ravel(), minlength=count)[:count]
    pixels = painting.labels.size
    order = np.where(amounts, amounts, pixels)
    order[amounts.argmax()] = pixels + 1
    return int(order.argmin())


def _static(name: str) -> str:
    return resources.files("ecgan.demo").joinpath("static", name).read_text(encoding="utf-8")
