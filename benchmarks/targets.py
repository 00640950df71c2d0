"""What the operators were meant to reach, and which row says whether they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import LINES, Line, Measured, slope

NO_GPU = "no GPU has been measured yet: `benchmarks/gpu.sh`"


@dataclass(frozen=True)
class Target:
    """A figure to reach."""

    work: str
    device: str
    goal: float
    measure: Callable[[Measured], float | None]
    at_least: bool = True
    show: str = "{:.3g}x"
    reason: str = ""


def faster(line: Line) -> Callable[[Measured], float | None]:
    """Eager's median over ours."""

    def measure(device: Measured) -> float | None:
        ours, eager = device.row(line), device.row(line, line.eager)
        if ours is None or eager is None:
            return None
        return eager["seconds"]["median"] / ours["seconds"]["median"]

    return measure


def smaller(line: Line) -> Callable[[Measured], float | None]:
    """Our peak memory as a part of eager's."""

    def measure(device: Measured) -> float | None:
        ours, eager = device.row(line), device.row(line, line.eager)
        return ours["peak_bytes"] / eager["peak_bytes"] if ours and eager else None

    return measure


def of_ours(line: Line, value: Callable[[dict], float]) -> Callable[[Measured], float | None]:
    """A figure of our own row."""

    def measure(device: Measured) -> float | None:
        row = device.row(line)
        return value(row) if row else None

    return measure


def floor(line: Line) -> Callable[[Measured], float | None]:
    return of_ours(line, lambda row: row["times_the_floor"])


def growth(line: Line) -> Callable[[Measured], float | None]:
    """Growth of our memory."""
    return lambda device: slope(device, line, line.ours or device.first)


def pixels(ours: str, eager: str) -> Callable[[Measured], float | None]:
    """How many times the pixels of eager's largest image in 16 GiB."""

    def measure(device: Measured) -> float | None:
        rows: list[dict[str, Any]] = device.files.get("capacity", {}).get("rows", [])
        sides = {row["implementation"]: row["side"] for row in rows if row["gib"] == 16}
        if not sides:
            return None
        return (sides[ours] / sides[eager]) ** 2

    return measure


def bandwidth(device: Measured) -> float | None:
    """Part of the copy bandwidth that edge_transfer reaches, in percent."""
    found = floor(LINES["transfer"])(device)
    return 100 / found if found else None


def on(
    name: str, measure: Callable[[Measured], float | None]
) -> Callable[[Measured], float | None]:
    """A figure of one kind of GPU only."""
    return lambda device: measure(device) if name in device.device else None


_SIMILARITY, _ALL = LINES["similarity"], LINES["similarity, all pixels"]
_MILLISECONDS = of_ours(_ALL, lambda row: 1e3 * row["seconds"]["median"])
TARGETS = [
    Target("`similarity_bce`, 8192 pixels", "cpu", 25, faster(_SIMILARITY)),
    Target(
        "the same by symmetry",
        "cpu",
        40,
        faster(_SIMILARITY),
        reason="the floor (three products at the rate of a matrix product) is itself below 40x on "
        "AVX2: its column in the speed table",
    ),
    Target(
        "extra memory, in inputs",
        "cpu",
        4,
        of_ours(_ALL, lambda row: row["peak_bytes"] / row["notes"]["input_bytes"]),
        at_least=False,
    ),
    Target(
        "`similarity_bce`, 131072 pixels",
        "cpu",
        20,
        of_ours(_ALL, lambda row: row["seconds"]["median"]),
        at_least=False,
        show="{:.3g} s",
    ),
    Target(
        "the same, memory",
        "cpu",
        200,
        of_ours(_ALL, lambda row: row["peak_bytes"] / 1e6),
        at_least=False,
        show="{:.3g} MB",
    ),
    Target(
        "`similarity_bce`, 131072 pixels, H100",
        "gpu",
        40,
        on("h100", _MILLISECONDS),
        at_least=False,
        show="{:.3g} ms",
        reason=NO_GPU,
    ),
    Target(
        "the same, V100",
        "gpu",
        200,
        on("v100", _MILLISECONDS),
        at_least=False,
        show="{:.3g} ms",
        reason="no V100 has been measured; its floor, three exact products at 112e12 operations a "
        "second and ten float operations a pair, is about 150 ms",
    ),
    Target(
        "`pixel_contrast`, 8192 embeddings",
        "cpu",
        20,
        faster(LINES["contrast"]),
        reason="20 times this run's eager (2.5 s; 4.8 s when the target was set) would be the "
        "floor itself, of which ours takes 1.3",
    ),
    Target(
        "growth of its memory",
        "cpu",
        1.05,
        growth(LINES["contrast"]),
        at_least=False,
        show="{:.2f}",
    ),
    Target("`edge_transfer`", "cpu", 4, faster(LINES["transfer"])),
    Target(
        "its memory beside inputs, result and gradients, in inputs",
        "cpu",
        0.01,
        # Two inputs of float32, whose gradients and the result are as large as they.
        of_ours(LINES["transfer"], lambda row: row["peak_bytes"] / (4 * row["elements"]) - 3),
        at_least=False,
        show="{:.2g}",
    ),
    Target(
        "`edge_transfer`, of the copy bandwidth",
        "gpu",
        90,
        bandwidth,
        show="{:.0f} %",
        reason=NO_GPU,
    ),
    Target("`label_conv2d`", "cpu", 15, faster(LINES["first layer"])),
    Target(
        "its memory, of its result's",
        "cpu",
        1.1,
        of_ours(LINES["first layer"], lambda row: row["peak_bytes"] / (4 * row["elements"])),
        at_least=False,
    ),
    Target("`LabelSPADE`", "cpu", 20, faster(LINES["spade"])),
    Target("`LabelSPADE`", "gpu", 5, faster(LINES["spade"]), reason=NO_GPU),
    Target("its memory, of eager's", "cpu", 0.2, smaller(LINES["spade"]), at_least=False),
    Target("class decoder", "cpu", 12, faster(LINES["decoder"])),
    Target("its memory, of eager's", "cpu", 1 / 15, smaller(LINES["decoder"]), at_least=False),
    Target("step of B6", "cpu", 3, faster(LINES["step"])),
    Target("step of B6", "gpu", 2, faster(LINES["step"]), reason=NO_GPU),
    Target("its memory, of eager's", "cpu", 1 / 3, smaller(LINES["step"]), at_least=False),
    Target("pixels trainable in 16 GiB, of eager's", "cpu", 4, pixels("ours", "eager")),
    Target(
        "the same, of an eager that spares absent classes",
        "cpu",
        4,
        pixels("ours", "eager, present classes"),
        reason="the networks' own activations, which both keep, are most of what is left",
    ),
    Target(
        "the same, activations computed again",
        "cpu",
        4,
        pixels("ours, checkpointing", "eager, present classes"),
    ),
    *[
        Target(
            f"{title}: time over its floor",
            "cpu",
            1.5,
            floor(LINES[key]),
            at_least=False,
            reason=reason,
        )
        for key, title, reason in (
            ("similarity", "`similarity_bce`", "logarithms, which the floor leaves out"),
            ("contrast", "`pixel_contrast`", "exponentials, which the floor leaves out"),
            ("transfer", "`edge_transfer`", "the exponential is as long as the copy on two cores"),
            ("transfer, lrelu", "`edge_transfer_lrelu`", "as `edge_transfer`"),
            (
                "spade",
                "`LabelSPADE`",
                "the floor has neither the index nor the product over neighbourhoods",
            ),
            ("first layer", "`label_conv2d`", "sums of up to nine rows a run, from caches"),
            ("decoder", "class decoder", "gates between the layers"),
        )
    ],
]
