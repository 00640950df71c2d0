"""The training step of B6 as users write it in PyTorch and as we do, each in a process of its own.

Eager is the model as one writes it: one-hot layouts, convolved and pooled densely, dense SPADE,
M x M matrices in both pairwise losses, a decoder pass for every class. "eager, present classes"
spares the passes of the classes that the layouts lack. The paper's networks; layouts are
COCO-Stuff's where ECGAN_TEST_DATA names them, else drawn areas.

    python -m benchmarks.b6 CANDIDATE SIZE CLASSES BATCH STEPS [GIB]    prints its figures as JSON
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.layouts import coco_stuff
from benchmarks.record import DEVICE, ROOT, seconds, synchronize

EAGER, PRESENT, OURS, CHECKPOINTING = CANDIDATES = (
    "eager",
    "eager, present classes",
    "ours",
    "ours, checkpointing",
)


class DenseChannels:
    """A layout's one-hot form, convolved and pooled as eager code does."""

    def __init__(self, one_hot: Tensor) -> None:
        self.one_hot = one_hot

    def conv2d(
        self, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0
    ) -> Tensor:
        return F.conv2d(self.one_hot, weight, bias, stride, padding)

    def halve(self) -> DenseChannels:
        pooled = F.avg_pool2d(self.one_hot, 3, stride=2, padding=1, count_include_pad=False)
        return DenseChannels(pooled)


def eager_similarity(
    probs: Tensor, labels: Tensor, *, ignore_index: int, eps: float = 1e-6
) -> Tensor:
    losses = []
    for image, label in zip(probs.flatten(2), labels.flatten(1), strict=True):
        valid = label != ignore_index
        s, y = image[:, valid], label[valid]
        p = s.t() @ s
        same = (y[:, None] == y).to(p.dtype)
        losses.append(F.binary_cross_entropy(p.clamp(eps, 1 - eps), same))
    return torch.stack(losses).mean()


def eager_contrast(
    z: Tensor,
    labels: Tensor,
    *,
    contrast: None,
    contrast_labels: None,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    z = F.normalize(z.float(), dim=1)
    logits = z @ z.t() / temperature
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    losses = F.softplus(negatives - logits) * positive
    count = positive.sum(1)
    return (losses.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def make_step(
    candidate: str, size: int, classes: int, batch_size: int, stack: ExitStack
) -> Callable[[], None]:
    """Builds a candidate's networks and returns its training step; patches live in ``stack``."""
    import ecgan_kernels

    import ecgan.losses.contrast
    import ecgan.losses.similarity
    from ecgan.config import ModelConfig, TrainConfig, preset_values
    from ecgan.losses import Objective
    from ecgan.models import Layout
    from ecgan.models.branches import ClassDecoder
    from ecgan.models.perceptual import blank_perceptual
    from ecgan.models.segmenter import blank_label_generator
    from ecgan.training.build import build_networks, build_optimizers
    from ecgan.training.step import TrainingStep

    torch.manual_seed(0)
    cfg = TrainConfig()
    cfg.loss.perceptual_network.network = "vgg19"
    values = {k: bool(v) for k, v in preset_values("B6").items()}
    switches = {k.removeprefix("model."): v for k, v in values.items() if k.startswith("model.")}
    again = candidate == CHECKPOINTING
    networks = build_networks(
        ModelConfig(num_classes=classes, size=f"{size}x{size}", checkpointing=again, **switches)
    )
    for network in networks.items().values():
        network.to(DEVICE)
    step = TrainingStep(
        cfg.optim,
        networks,
        (networks.generator, networks.discriminator, None),
        Objective(
            cfg.loss,
            blank_perceptual(cfg.loss.perceptual_network).to(DEVICE),
            blank_label_generator(cfg.segmenter, classes).to(DEVICE),
        ),
        build_optimizers(cfg.optim, networks),
    )
    labels = coco_stuff(size, batch_size, classes)[0].clamp(max=classes).to(DEVICE)
    batch = {
        "image": torch.rand(batch_size, 3, size, size, device=DEVICE) * 2 - 1,
        "edge": torch.rand(batch_size, 1, size, size, device=DEVICE) * 2 - 1,
    }
    eager = candidate in (EAGER, PRESENT)
    if eager:
        present = labels.unique().tolist()
        passes = range(classes) if candidate == EAGER else [c for c in present if c < classes]

        def decode(self: ClassDecoder, activated: Tensor, layout: Layout) -> Tensor:
            return self.passes(activated, layout, passes)

        stack.enter_context(ecgan_kernels.implementation("reference"))
        for target, name, plain in (
            (ClassDecoder, "forward", decode),
            (ecgan.losses.similarity, "similarity_bce", eager_similarity),
            (ecgan.losses.contrast, "pixel_contrast", eager_contrast),
        ):
            stack.enter_context(mock.patch.object(target, name, plain))

    def run() -> None:
        layout = Layout(labels, classes)
        if eager:
            for level in (layout, layout.resize((size // 32, size // 32))):
                dense = DenseChannels(level.index().one_hot())
                level.conv2d, level.halve = dense.conv2d, dense.halve  # type: ignore
        step([{**batch, "layout": layout}], (1e-4, 4e-4), 0)

    return run


def child(candidate: str, size: int, classes: int, batch: int, steps: int) -> dict:
    """Times ``steps`` steps after one to warm up; memory is that beyond what torch takes idle."""
    with ExitStack() as stack:
        torch.zeros(1, device=DEVICE).sum()
        before = _most_memory()
        run = make_step(candidate, size, classes, batch, stack)
        times = [seconds(run) for _ in range(1 + steps)]
    return {"seconds": times[1:], "peak_bytes": _most_memory() - before}


def _most_memory() -> int:
    """What the operating system gave at most, libraries' workspaces included; a GPU's allocator."""
    if DEVICE.type == "cuda":
        synchronize()
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    candidate: str,
    size: int,
    classes: int,
    batch: int = 1,
    steps: int = 1,
    gib: float | None = None,
) -> dict | None:
    """Runs a candidate in a child process.

    Args:
        candidate: one of ``CANDIDATES``.
        size: side of the images.
        classes: N.
        batch: images a step.
        steps: steps to time, after one to warm up.
        gib: what the process may take of a GPU's memory.

    Returns:
        ``{"seconds": [...], "peak_bytes": int}``; None where the memory does not suffice.

    Raises:
        RuntimeError: the child failed otherwise.
    """
    numbers = [size, classes, batch, steps, *([] if gib is None else [gib])]
    command = [sys.executable, "-m", "benchmarks.b6", candidate, *map(str, numbers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if "OutOfMemoryError" in done.stderr:
        return None
    if done.returncode != 0:
        raise RuntimeError(f"{candidate} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    if len(arguments) == 6:
        whole = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction(float(arguments.pop()) * 2**30 / whole)
    print(json.dumps(child(arguments[0], *map(int, arguments[1:]))))


if __name__ == "__main__":
    main(sys.argv[1:])
