"""What the pictures of `fusion` show: tensors, by operator, in the order in which they appear."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["there", "kept", "passing", "result"]


@dataclass(frozen=True)
class Box:
    """A tensor, or ``times`` equal ones."""

    name: str
    shape: tuple[int, ...]
    kind: Kind = "there"
    item: int = 4
    """Bytes of an element."""
    times: int = 1

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return math.prod(self.shape) * self.item * self.times

    @property
    def shown_shape(self) -> str:
        """``4×64×256×256``."""
        return "×".join(map(str, self.shape)) or "one number"


@dataclass(frozen=True)
class Lane:
    """One way to compute it."""

    title: str
    inputs: tuple[Box, ...]
    results: tuple[Box, ...]
    written: tuple[Box, ...] = ()
    """Eager: what it writes on the way."""
    steps: tuple[str, ...] = ()
    """The operator: what happens within its pass."""
    note: str = ""

    @property
    def bytes(self) -> int:
        """What it writes, results included."""
        return sum(box.bytes for box in (*self.written, *self.results))

    @property
    def kept(self) -> int:
        """What it keeps for the backward pass beside inputs and results."""
        return sum(box.bytes for box in (*self.written, *self.results) if box.kind == "kept")


@dataclass(frozen=True)
class Picture:
    """Two ways to compute one operator at one size."""

    title: str
    size: str
    eager: Lane
    ours: Lane = field(kw_only=True)


# Distinct 5x5 and 3x3 neighbourhoods of labels among the 262144 of the first four layouts of
# COCO-Stuff's training part at 256x256.
NEIGHBOURHOODS, PATCHES = 9656, 2443


def _transfer() -> Picture:
    shape = (4, 64, 256, 256)
    inputs = (Box("x", shape), Box("e", shape))
    y = (Box("y", shape, "result"),)
    written = (Box("σ(e)", shape, "kept"), Box("1 + σ(e)", shape, "kept"))
    return Picture(
        "edge_transfer",
        "y = x · (1 + σ(e)), feature level, float32",
        Lane("eager PyTorch", inputs, y, written),
        ours=Lane(
            "edge_transfer", inputs, y, steps=("σ(e)", "1 + σ(e)", "x · (1 + σ(e))", "in registers")
        ),
    )


def _transfer_lrelu() -> Picture:
    shape = (4, 32, 256, 256)
    inputs = (Box("x", shape), Box("e", shape))
    results = (Box("y = ℓ(x(1 + σ))", shape, "result"), Box("f = ℓ(e)", shape, "result"))
    written = (
        Box("σ(e)", shape, "kept"),
        Box("1 + σ(e)", shape, "kept"),
        Box("x (1 + σ(e))", shape, "kept"),
    )
    steps = ("x · (1 + σ(e))", "LeakyReLU ℓ of both", "in registers")
    return Picture(
        "edge_transfer_lrelu",
        "edge transfer and the LeakyReLU ℓ of both branches, float32",
        Lane("eager PyTorch", inputs, results, written),
        ours=Lane(
            "edge_transfer_lrelu",
            inputs,
            results,
            steps=steps,
            note="writes 64 MiB, keeps its results alone: x and e may go, since ℓ can be undone",
        ),
    )


def _similarity() -> Picture:
    pixels, classes = 8192, 35
    pairs = (pixels, pixels)
    inputs = (Box("S", (classes, pixels)), Box("labels l", (pixels,), item=8))
    loss = Box("loss", (), "result")
    written = (
        Box("p = SᵀS", pairs, "passing"),
        Box("lᵢ = lⱼ", pairs, "kept", item=1),
        Box("1 − p", pairs, "passing"),
        Box("x: p or 1 − p", pairs, "kept"),
        Box("max(x, ε)", pairs, "kept"),
        Box("log", pairs, "passing"),
    )
    steps = (
        "for each tile of the pairs of pixels:",
        "p = SᵢᵀSⱼ, compare labels, log max(x, ε)",
        "add up the loss and its gradient",
    )
    return Picture(
        "similarity_bce",
        "8192 pixels (64×128), 35 classes, float32, one image",
        Lane("eager PyTorch", inputs, (loss,), written),
        ours=Lane(
            "similarity_bce",
            inputs,
            (loss, Box("dL/dS", (classes, pixels), "kept")),
            steps=steps,
        ),
    )


def _contrast() -> Picture:
    count, length = 8192, 64
    pairs = (count, count)
    inputs = (Box("z", (count, length)), Box("labels l", (count,), item=8))
    written = (
        Box("z zᵀ", pairs, "passing"),
        Box("s = z zᵀ / τ", pairs, "passing"),
        Box("lᵢ = lⱼ", pairs, "kept", item=1),
        Box("i = j, i ≠ j", pairs, "passing", item=1, times=2),
        Box("positive", pairs, "kept", item=1),
        Box("s of negatives", pairs, "kept"),
        Box("log Σ eˢ − s", pairs, "kept"),
        Box("softplus", pairs, "passing"),
        Box("· positive", pairs, "passing"),
    )
    steps = (
        "for each tile of the pairs of embeddings:",
        "s = zᵢ · zⱼ / τ, Σ eˢ over negatives",
        "again: loss of positives and gradient",
    )
    return Picture(
        "pixel_contrast",
        "8192 embeddings of length 64, float32",
        Lane("eager PyTorch", inputs, (Box("losses", (count,), "result"),), written),
        ours=Lane(
            "pixel_contrast",
            inputs,
            (Box("losses", (count,), "result"), Box("dL/dz", (count, length), "kept")),
            steps=steps,
        ),
    )


def _label_conv() -> Picture:
    labels = Box("labels", (4, 256, 256), item=8)
    weight = Box("weight", (128, 183, 3, 3))
    y = (Box("y", (4, 128, 256, 256), "result"),)
    return Picture(
        "label_conv2d",
        "3×3 convolution of a label map of 183 classes to 128 channels, float32",
        Lane(
            "eager PyTorch", (labels, weight), y, (Box("one-hot map", (4, 183, 256, 256), "kept"),)
        ),
        ours=Lane(
            "label_conv2d",
            (labels, weight),
            y,
            steps=(
                "for each pixel: nine rows of the weight,",
                "those of the labels under its taps,",
                "are added up",
            ),
        ),
    )


def _label_spade() -> Picture:
    labels, channels, hidden = (4, 256, 256), 64, 128
    full, wide = (4, channels, 256, 256), (4, hidden, 256, 256)
    x, y = Box("x", full), Box("y", full, "result")
    written = (
        Box("one-hot map", (4, 183, 256, 256), "kept"),
        Box("conv", wide, "passing"),
        Box("h = relu(conv)", wide, "kept"),
        Box("γ, β", full, "passing", times=2),
        Box("n = norm(x)", full, "kept"),
        Box("1 + γ", full, "kept"),
        Box("n (1 + γ)", full, "passing"),
        Box("n (1 + γ) + β", full, "kept"),
    )
    steps = (
        "for each distinct 5×5 neighbourhood: γ, β, once",
        "for each pixel: norm(x), its γ and β by lookup,",
        "LeakyReLU",
    )
    return Picture(
        "LabelSPADE",
        "SPADE and LeakyReLU, 183 classes, float32, on four layouts of COCO-Stuff",
        Lane("eager PyTorch", (x, Box("labels", labels, item=8)), (y,), written),
        ours=Lane(
            "nn.LabelSPADE with a LabelIndex",
            (x, Box("neighbourhood", labels)),
            (
                y,
                Box("table of γ, β", (2 * channels, NEIGHBOURHOODS), "kept"),
                Box("h of patches", (PATCHES, hidden), "kept"),
            ),
            steps=steps,
            note="writes 88 MiB with all that is computed for a neighbourhood, keeps 5.91 MiB "
            "beside what was there",
        ),
    )


def _class_conv() -> Picture:
    classes, inputs, outputs = 35, (64, 256, 256), (32, 256, 256)
    there = (Box("x", inputs), Box("labels", (256, 256), item=8))
    y = (Box("y", outputs, "result"),)
    written = (
        Box("mask of a class", (1, 256, 256), "kept", item=1, times=classes),
        Box("x · mask", inputs, "kept", times=classes),
        Box("conv", outputs, "passing", times=classes),
        Box("conv · mask", outputs, "passing", times=classes),
        Box("sum so far", outputs, "passing", times=classes - 1),
    )
    return Picture(
        "class_conv2d",
        "one 3×3 layer of a decoder of 35 class branches, 64 to 32 channels, float32",
        Lane("eager PyTorch: a pass for every class", there, y, written),
        ours=Lane(
            "class_conv2d",
            there,
            y,
            steps=(
                "for each pixel: the taps whose label",
                "is that of the pixel itself",
                "tiles of x and of labels in shared memory or cache",
            ),
        ),
    )


def _sample() -> Picture:
    pixels, classes, budget = (4, 64, 64), 35, 4096
    count = math.prod(pixels)
    labels = (Box("labels", pixels, item=8),)
    result = (Box("indices", (budget,), "result", item=8),)
    share = (budget // classes,)
    written = (
        Box("labels = c", pixels, "passing", item=1, times=classes),
        Box("its pixels", (count // classes,), "passing", item=8, times=classes),
        Box("a draw of them", share, "passing", item=8, times=classes),
    )
    return Picture(
        "sample_pixels",
        "4096 pixels of four 64×64 label maps, balanced over 35 classes",
        Lane(
            "eager PyTorch: a loop over the classes",
            labels,
            result,
            written,
            note="the host waits for the device once for every class, to learn how many there are",
        ),
        ours=Lane(
            "sample_pixels",
            labels,
            result,
            steps=(
                "a random order, ranks within each class by sorting,",
                "the first ones of all classes in turn",
            ),
            note="no loop over classes; the host waits once, to learn how many it got",
        ),
    )


def _queue() -> Picture:
    classes, capacity, length, new = 35, 1872, 64, 4096
    there = (
        Box("queue", (classes, capacity, length)),
        Box("new embeddings", (new, length)),
    )
    after = (Box("queue", (classes, capacity, length), "result"),)
    written = (
        Box("labels = c", (new,), "passing", item=1, times=classes),
        Box("its embeddings", (new // classes, length), "passing", times=classes),
        Box("queue shifted", (capacity, length), "passing", times=classes),
    )
    return Picture(
        "PixelQueue",
        "a queue of 16 MiB for 35 classes, 4096 new embeddings of length 64, float32",
        Lane(
            "eager PyTorch: a loop over the classes",
            there,
            after,
            written,
            note="the host waits once for every class, and the whole queue is copied",
        ),
        ours=Lane(
            "PixelQueue.enqueue",
            there,
            after,
            steps=(
                "sort by class, count, find each one's slot,",
                "write them into their slots, in place",
            ),
            note="writes the new embeddings alone; the host never waits",
        ),
    )


PICTURES = {
    "edge_transfer": _transfer(),
    "edge_transfer_lrelu": _transfer_lrelu(),
    "similarity_bce": _similarity(),
    "pixel_contrast": _contrast(),
    "sample_pixels": _sample(),
    "pixel_queue": _queue(),
    "label_conv2d": _label_conv(),
    "label_spade": _label_spade(),
    "class_conv2d": _class_conv(),
}
