"""The whole training step of B6, ours against eager: `pytest benchmarks/step.py`.

256x256, N = 183, batch 1, the paper's networks. Each candidate runs in child processes of its own,
in turn with the others; a child builds the networks, takes one step to warm up and times the next.
Its memory is the most that the operating system gave it beyond what it had before it built the
networks, so libraries' own workspaces count.

Eager is the model as one writes it in PyTorch: one-hot layouts, convolved and pooled densely, dense
SPADE, M x M matrices in both pairwise losses, a decoder pass for every class. "eager, present
classes" spares the passes of the classes that the layout lacks.

    python -m benchmarks.step CANDIDATE STEPS    one child: prints its figures as JSON
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import ROOT, Recorder

SIZE, CLASSES = 256, 183
EAGER, PRESENT, OURS, CHECKPOINTING = (
    "eager",
    "eager, present classes",
    "ours",
    "ours, checkpointing",
)
ROUNDS = 2


def load_labels() -> Tensor:
    """A real COCO-Stuff label map [1, 256, 256], or blobs where ECGAN_TEST_DATA has none."""
    import cv2

    root = os.environ.get("ECGAN_TEST_DATA")
    files = sorted(Path(root, "coco_stuff").rglob("*label*/*.png")) if root else []
    if files:
        labels = cv2.imread(str(files[0]), cv2.IMREAD_GRAYSCALE)
    else:
        labels = np.random.default_rng(0).integers(0, CLASSES, (6, 6)).astype(np.uint8)
    labels = cv2.resize(labels, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(labels.astype(np.int64))[None].clamp(max=CLASSES)


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
    valid = labels[0].flatten() != ignore_index
    s, y = probs[0].flatten(1)[:, valid], labels[0].flatten()[valid]
    p = s.t() @ s
    return F.binary_cross_entropy(p.clamp(eps, 1 - eps), (y[:, None] == y).to(p.dtype))


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
    positive = same & ~torch.eye(len(z), dtype=torch.bool)
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    losses = F.softplus(negatives - logits) * positive
    count = positive.sum(1)
    return (losses.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def make_step(candidate: str, stack: ExitStack) -> Callable[[], None]:
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
    size = f"{SIZE}x{SIZE}"
    networks = build_networks(
        ModelConfig(num_classes=CLASSES, size=size, checkpointing=again, **switches)
    )
    step = TrainingStep(
        cfg.optim,
        networks,
        (networks.generator, networks.discriminator, None),
        Objective(
            cfg.loss,
            blank_perceptual(cfg.loss.perceptual_network),
            blank_label_generator(cfg.segmenter, CLASSES),
        ),
        build_optimizers(cfg.optim, networks),
    )
    labels = load_labels()
    batch = {
        "image": torch.rand(1, 3, SIZE, SIZE) * 2 - 1,
        "edge": torch.rand(1, 1, SIZE, SIZE) * 2 - 1,
    }
    eager = candidate in (EAGER, PRESENT)
    if eager:
        present = labels.unique().tolist()
        classes = range(CLASSES) if candidate == EAGER else [c for c in present if c < CLASSES]

        def decode(self: ClassDecoder, activated: Tensor, layout: Layout) -> Tensor:
            return self.passes(activated, layout, classes)

        stack.enter_context(ecgan_kernels.implementation("reference"))
        for target, name, plain in (
            (ClassDecoder, "forward", decode),
            (ecgan.losses.similarity, "similarity_bce", eager_similarity),
            (ecgan.losses.contrast, "pixel_contrast", eager_contrast),
        ):
            stack.enter_context(mock.patch.object(target, name, plain))

    def run() -> None:
        layout = Layout(labels, CLASSES)
        if eager:
            for level in (layout, layout.resize((SIZE // 32, SIZE // 32))):
                dense = DenseChannels(level.index().one_hot())
                level.conv2d, level.halve = dense.conv2d, dense.halve  # type: ignore
        step([{**batch, "layout": layout}], (1e-4, 4e-4), 0)

    return run


def child(candidate: str, steps: int) -> dict:
    """Times ``steps`` steps after one to warm up."""
    with ExitStack() as stack:
        torch.zeros(1).sum()
        before = _most_memory()
        run = make_step(candidate, stack)
        times = []
        for _ in range(1 + steps):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return {"seconds": times[1:], "peak_bytes": _most_memory() - before}


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(candidate: str, steps: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.step", candidate, str(steps)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{candidate} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("step")
    yield recorder
    recorder.write()


@pytest.mark.timeout(3600)
def test_step_of_b6(recorder: Recorder) -> None:
    found: dict[str, list[dict]] = {name: [] for name in (EAGER, PRESENT, OURS, CHECKPOINTING)}
    for _ in range(ROUNDS):
        for name, runs in found.items():
            runs.append(measure(name, steps=1))
    recorder.add(
        {name: [s for run in runs for s in run["seconds"]] for name, runs in found.items()},
        {name: max(run["peak_bytes"] for run in runs) for name, runs in found.items()},
        moved=None,
        elements=SIZE * SIZE,
        size=SIZE,
        classes=CLASSES,
        batch=1,
    )
    eager, ours = (found[name] for name in (EAGER, OURS))
    assert min(run["peak_bytes"] for run in eager) > max(run["peak_bytes"] for run in ours)


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], int(sys.argv[2]))))
