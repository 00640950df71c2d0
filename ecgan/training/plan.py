"""Peak memory of a training step, from a step in which no number is computed."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ecgan.config import DatasetConfig, ModelConfig, TrainConfig, parse_size
from ecgan.data import PairDataset, build_dataset
from ecgan.errors import ConfigError
from ecgan.losses import Objective
from ecgan.models import Generator, Layout, resolve
from ecgan.models.perceptual import blank_perceptual
from ecgan.models.segmenter import blank_label_generator
from ecgan.training.build import (
    build_networks,
    build_optimizers,
    build_queue,
    fill_model,
    needs_label_generator,
)
from ecgan.training.precision import Precision
from ecgan.training.step import TrainingStep

Size = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """Predicted memory of one process, in bytes."""

    size: tuple[int, int]
    """Height and width in pixels."""
    batch_size: int
    """Images per step."""
    weights: int
    """Weights and buffers of all networks, the frozen ones included."""
    moments: int
    """The optimisers' moments."""
    peak: int
    """Most memory that tensors take at one time: weights, moments, gradients and activations."""
    phase: str
    """When that is: in which network's forward pass, backward pass or update."""

    def __str__(self) -> str:
        def gib(value: int) -> str:
            return f"{value / 2**30:.2f} GiB"

        height, width = self.size
        rest = self.peak - self.weights - self.moments
        return (
            f"weights    {gib(self.weights)}, of all networks\n"
            f"moments    {gib(self.moments)}, of both optimisers\n"
            f"the rest   {gib(rest)}, gradients and activations\n"
            f"peak       {gib(self.peak)} at {height}x{width} with batch {self.batch_size}, "
            f"in the {self.phase}"
        )


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensor storages that operators bring into being and that live on.

    Attributes:
        now: bytes alive.
        peak: most bytes that were alive at once.
        at_peak: what ``phase`` was then.
        phase: set by whoever watches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.phase = self.at_peak = ""
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def see(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, unless it is known."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._free, size)
        self.now += size
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, self.phase

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        """Runs the operator and counts what it returns."""
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.see, result)
        return result


class Layouts:
    """Layouts to plan with: the data set's own, or drawn scenes where there is none yet.

    Args:
        cfg: the run.

    Raises:
        ConfigError: there is no data set and ``dataset.num_classes`` is 0.
        DataError: the data set cannot be read.
    """

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg = cfg
        self.own = cfg.data == "scenes" or Path(cfg.data).is_dir()
        """Whether the layouts are the data set's own."""
        self.num_classes = cfg.dataset.num_classes
        if self.own:
            self.num_classes = self._open(parse_size(cfg.size)).num_classes
        elif self.num_classes < 1:
            raise ConfigError(
                f"{cfg.data} is no folder: give dataset.num_classes to plan without the data set"
            )

    def draw(self, size: Size, count: int) -> tuple[Tensor, Tensor | None]:
        """Label maps, int64 [count, H, W], and instance edges [count, 1, H, W] or None."""
        pairs = self._open(size)
        items = [pairs[index % len(pairs)] for index in range(count)]
        labels = torch.stack([cast(Tensor, item["labels"]) for item in items])
        edges = None
        if self.cfg.dataset.instance_edges:
            edges = torch.stack([cast(Tensor, item["instance_edges"]) for item in items])
        return labels, edges

    def _open(self, size: Size) -> PairDataset:
        cfg = self.cfg
        if self.own:
            return build_dataset(cfg.dataset, cfg.data, size, "train", strict=False)
        scenes = DatasetConfig(format="scenes", instance_edges=cfg.dataset.instance_edges)
        return build_dataset(scenes, "scenes", size, "train")


def plan(cfg: TrainConfig, layouts: Layouts | None = None) -> Plan:
    """Predicts the peak memory of a training step on one process.

    A step runs with all its networks, losses and optimisers on tensors that have shapes but no
    numbers, while the bytes of all tensors alive are counted. Only the layouts are real: how many
    distinct neighbourhoods they have decides what SPADE keeps. Not counted are libraries' own
    workspaces (cuDNN, oneDNN), the CUDA context and fragmentation.

    Args:
        cfg: the run.
        layouts: where layouts come from; None: :class:`Layouts` of the run.

    Raises:
        ConfigError: settings contradict each other, or the number of classes is not known.
        DataError: the data set cannot be read.
    """
    layouts = layouts or Layouts(cfg)
    size = parse_size(cfg.size)
    model = fill_model(cfg, layouts.num_classes)
    labels, edges = layouts.draw(size, cfg.batch_size)
    real = Layout(
        labels, model.num_classes, void_channel=model.void_channel, instance_edges=edges
    ).prepare(resolve.label_sizes(model, size))
    objective = _objective(cfg, model)
    # The frozen networks are real and turn into shapes where they are used.
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, LiveBytes() as live:
        layout = real.map(fake.from_tensor)
        for tensor in _frozen_tensors(objective):
            live.see(tensor)
        step = _assemble(cfg, model, objective, live)
        weights = live.now
        batch = {
            "image": torch.zeros(cfg.batch_size, 3, *size),
            "edge": torch.zeros(cfg.batch_size, 1, *size),
        }
        for optimizer in step.optimizers:
            _run_empty(optimizer)
        average = Generator(model) if cfg.optim.ema else None  # of shapes, which copy() cannot copy
        weights += sum(p.nbytes for p in average.parameters()) if average is not None else 0
        live.peak = 0
        live.phase = "generator's forward pass"
        batches = [{**batch, "layout": layout} for _ in range(cfg.optim.accumulate)]
        step(batches, (1e-4, 1e-4), cfg.loss.contrastive.warmup_steps)
        moments = sum(
            value.nbytes
            for optimizer in step.optimizers
            for state in optimizer.state.values()
            for value in state.values()
        )
    return Plan(size, cfg.batch_size, weights, moments, live.peak, live.at_peak)


def largest(
    cfg: TrainConfig, budget: int, layouts: Layouts | None = None, start: Plan | None = None
) -> Plan | None:
    """The plan of the largest size of the run's shape whose peak keeps within a budget.

    Sizes are those multiples of what the encoder needs that come nearest to the shape of
    ``cfg.size``. The number of doublings inside the encoder stays as it is there.

    Args:
        cfg: the run.
        budget: bytes.
        layouts: as for :func:`plan`.
        start: the plan of ``cfg`` itself, where it is known already.

    Returns:
        None where not even the smallest size fits.
    """
    layouts = layouts or Layouts(cfg)
    height, width = parse_size(cfg.size)
    model = fill_model(cfg, layouts.num_classes)
    unit = 16
    if cfg.model.encoder == "spade":
        doublings = resolve.upsamplings(model)
        cfg = replace(cfg, model=replace(cfg.model, num_upsamples=doublings))
        unit = 2**doublings
    short = min(height, width)
    known: dict[int, Plan] = {}

    def at(steps: int) -> Plan:
        """The plan with ``steps`` units along the shorter side."""
        if steps not in known:
            sides = (max(1, round(side * steps / short)) * unit for side in (height, width))
            size = "x".join(map(str, sides))
            known[steps] = plan(replace(cfg, size=size), layouts)
        return known[steps]

    if start is not None and short % unit == 0:
        known[short // unit] = start

    def estimate(seen: int) -> int:
        """Steps that fit if all but weights and moments grows with the pixels."""
        fixed = at(seen).weights + at(seen).moments
        share = max(0, budget - fixed) / max(1, at(seen).peak - fixed)
        return max(1, int(seen * math.sqrt(share)))

    steps = estimate(estimate(max(1, short // unit)))
    while steps and at(steps).peak > budget:
        steps -= 1
    while steps and at(steps + 1).peak <= budget:
        steps += 1
    return at(steps) if steps else None


def _objective(cfg: TrainConfig, model: ModelConfig) -> Objective:
    """The losses of a run, whose frozen networks have no pretrained weights."""
    perceptual = blank_perceptual(cfg.loss.perceptual_network) if cfg.loss.perceptual else None
    label_generator = None
    if needs_label_generator(cfg.loss):
        label_generator = blank_label_generator(cfg.segmenter, model.num_classes)
    queue = build_queue(cfg.loss, model, torch.device("cpu"))
    objective = Objective(cfg.loss, perceptual, label_generator, queue)
    objective.sample = _full_sample
    return objective


def _frozen_tensors(objective: Objective) -> Iterator[Tensor]:
    for module in (objective.perceptual, objective.label_generator, objective.queue):
        if module is not None:
            yield from itertools.chain(module.parameters(), module.buffers())


def _assemble(
    cfg: TrainConfig, model: ModelConfig, objective: Objective, live: LiveBytes
) -> TrainingStep:
    """The step of a run, watched by ``live``."""
    networks = build_networks(model)
    optimizers = build_optimizers(cfg.optim, networks)

    def enter(phase: str) -> None:
        live.phase = phase

    return TrainingStep(
        cfg.optim,
        networks,
        (networks.generator, networks.discriminator, networks.encoder),
        objective,
        optimizers,
        # Loss scaling keeps no tensors to speak of, and looks at numbers that are not there.
        precision=Precision(cfg.precision, scaling=False),
        observe=enter,
    )


def _run_empty(optimizer: torch.optim.Optimizer) -> None:
    """Gives an optimiser its moments, as a step before would."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _full_sample(labels: Tensor, budget: int, **_: object) -> Tensor:
    """As many pixels as ``sample_pixels`` draws at most, which are known without looking."""
    return torch.arange(min(budget, labels.numel()))
