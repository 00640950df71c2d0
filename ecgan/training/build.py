"""From a configuration to data sets and networks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ecgan_kernels import PixelQueue
from torch import nn
from torch.utils.data import default_collate

from ecgan.config import (
    DatasetConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SegmenterConfig,
    TrainConfig,
    parse_size,
)
from ecgan.data import Fault, PairDataset, build_dataset
from ecgan.data.classes import ClassTable
from ecgan.errors import CheckpointError, ConfigError, WeightsError
from ecgan.models import Generator, ImageEncoder, Layout, MultiModalityDiscriminator
from ecgan.models.resolve import label_sizes
from ecgan.models.segmenter import LabelGenerator, read_label_map

Check = Callable[[int, int], None]
"""Called with the number of pairs checked and the number of all."""


@dataclass
class Networks:
    """The networks that training changes."""

    generator: Generator
    discriminator: MultiModalityDiscriminator
    encoder: ImageEncoder | None
    """Image encoder of ``style: encoder``."""

    def items(self) -> dict[str, nn.Module]:
        """Networks by name, those that are there."""
        named = {"generator": self.generator, "discriminator": self.discriminator}
        return named if self.encoder is None else {**named, "encoder": self.encoder}


def check_config(cfg: TrainConfig) -> None:
    """Refuses numbers that cannot work, before anything is read.

    Raises:
        ConfigError: one sentence that names the key.
    """
    parse_size(cfg.size)
    least = {
        "batch_size": (cfg.batch_size, 1),
        "log_every": (cfg.log_every, 1),
        "sample_every": (cfg.sample_every, 1),
        "save_every": (cfg.save_every, 1),
        "keep": (cfg.keep, 1),
        "max_bad_steps": (cfg.max_bad_steps, 1),
        "optim.accumulate": (cfg.optim.accumulate, 1),
        "optim.ema_batches": (cfg.optim.ema_batches, 1),
        "optim.steps": (cfg.optim.steps, 0),
        "optim.epochs": (cfg.optim.epochs, 0),
        "optim.decay_epochs": (cfg.optim.decay_epochs, 0),
        "dataset.workers": (cfg.dataset.workers, 0),
        "dataset.check": (cfg.dataset.check, 0),
        "segmenter.steps": (cfg.segmenter.steps, 1),
        "segmenter.batch_size": (cfg.segmenter.batch_size, 1),
        "loss.contrastive.layouts": (cfg.loss.contrastive.layouts, 1),
        "loss.contrastive.budget": (cfg.loss.contrastive.budget, 1),
        "loss.contrastive.queue_update": (cfg.loss.contrastive.queue_update, 1),
    }
    for key, (value, minimum) in least.items():
        if value < minimum:
            raise ConfigError(f"{key} must be at least {minimum}, not {value}")
    if cfg.optim.epochs + cfg.optim.decay_epochs < 1:
        raise ConfigError("optim.epochs and optim.decay_epochs are both 0: nothing to train")
    if cfg.loss.contrast and not cfg.model.class_branch:
        raise ConfigError(
            f"loss.contrast is {cfg.loss.contrast} but its projection head belongs to "
            "model.class_branch, which is off"
        )
    if cfg.loss.contrastive.queue_mb <= 0:
        raise ConfigError(
            f"loss.contrastive.queue_mb must be above 0, not {cfg.loss.contrastive.queue_mb}"
        )
    if not 0 <= cfg.optim.ema < 1:
        raise ConfigError(f"optim.ema must be at least 0 and below 1, not {cfg.optim.ema}")
    if not 0 <= cfg.keep_gib < float("inf"):
        raise ConfigError(f"keep_gib must be a number of at least 0, not {cfg.keep_gib}")
    if not 0 < cfg.timeout < float("inf"):
        raise ConfigError(f"timeout must be a number above 0, in minutes, not {cfg.timeout}")
    if cfg.optim.lr <= 0:
        raise ConfigError(f"optim.lr must be above 0, not {cfg.optim.lr}")
    if cfg.optim.lr_discriminator < 0:
        raise ConfigError(
            f"optim.lr_discriminator must be above 0, or 0 for lr's, not "
            f"{cfg.optim.lr_discriminator}"
        )


def open_data(
    cfg: DatasetConfig,
    data: str,
    size: str,
    seed: int,
    *,
    check: Check | None = None,
    validate: bool = True,
    report: Callable[[list[Fault]], None] | None = None,
) -> tuple[PairDataset, PairDataset]:
    """Opens the training and the validation part of a data set and checks every pair.

    Args:
        cfg: format and preparation.
        data: folder, or ``scenes``.
        size: height x width.
        seed: of the augmentation.
        check: told how many pairs have been checked.
        validate: whether to check the pairs.
        report: given all faults that ``cfg.faults`` ``skip`` puts up with, if there are any;
            `ecgan.data.skipped` makes a sentence of them.

    Returns:
        The training and the validation part.

    Raises:
        ConfigError: settings do not suit the data set.
        DataError: no data there, or a faulty pair; the message names it. With ``skip`` only if more
            than half of the pairs are faulty.
        WeightsError: HED's weights are missing.
    """
    extractor = None
    if cfg.edges.method == "hed":
        from ecgan.models.hed import build_hed

        if not cfg.edges.hed_weights:
            raise WeightsError("edges by hed need its weights file: set dataset.edges.hed_weights")
        extractor = build_hed(cfg.edges.hed_weights)

    faults: list[Fault] = []

    def part(split: Literal["train", "val"]) -> PairDataset:
        pairs = build_dataset(cfg, data, parse_size(size), split, seed=seed, extractor=extractor)
        if validate:
            # Both parts list the same files where one is held out of the other.
            known = {(fault.file, fault.message) for fault in faults}
            found = pairs.validate(check, cfg.check)
            faults.extend(fault for fault in found if (fault.file, fault.message) not in known)
        if extractor is not None:
            pairs.fill_edge_cache(check)
        return pairs

    parts = part("train"), part("val")
    if faults and report is not None:
        report(faults)
    return parts


def fill_model(cfg: TrainConfig, num_classes: int) -> ModelConfig:
    """The networks' settings with what the data set and the run decide."""
    return dataclasses.replace(
        cfg.model,
        num_classes=num_classes,
        void_channel=cfg.dataset.void_channel,
        instance_edges=cfg.dataset.instance_edges,
        size=cfg.size,
    )


def build_networks(cfg: ModelConfig) -> Networks:
    """Freshly initialised networks.

    Raises:
        ConfigError: settings contradict each other.
    """
    encoder = ImageEncoder(cfg) if cfg.style == "encoder" else None
    return Networks(Generator(cfg), MultiModalityDiscriminator(cfg), encoder)


def freeze_unreached(networks: Networks, loss: LossConfig) -> None:
    """Freezes the parts of G that no loss reaches; data-parallel training would wait for them."""
    generator = networks.generator
    if generator.projection is not None and not loss.contrast:
        generator.projection.requires_grad_(False)
    decoder = generator.class_decoder
    if decoder is not None and generator.class_fusion is None and not loss.class_l1:
        decoder.requires_grad_(False)


def build_optimizers(
    cfg: OptimConfig, networks: Networks
) -> tuple[torch.optim.Adam, torch.optim.Adam]:
    """Adam for G (with the image encoder) and for D; every step sets the learning rate anew."""
    betas = (cfg.beta1, cfg.beta2)
    encoder = networks.encoder
    g_parameters = [*networks.generator.parameters(), *(encoder.parameters() if encoder else ())]
    return (
        torch.optim.Adam(g_parameters, lr=cfg.lr, betas=betas),
        torch.optim.Adam(networks.discriminator.parameters(), lr=cfg.lr, betas=betas),
    )


def build_queue(cfg: LossConfig, model: ModelConfig, device: torch.device) -> PixelQueue | None:
    """The contrastive loss's queue of past embeddings, where its source is one.

    Raises:
        ConfigError: queue_mb does not hold one embedding of each class.
    """
    settings = cfg.contrastive
    if not cfg.contrast or settings.source != "queue":
        return None
    try:
        queue = PixelQueue(model.num_classes, model.projection_dim, megabytes=settings.queue_mb)
    except ValueError as error:
        raise ConfigError(f"loss.contrastive.queue_mb: {error}") from None
    return queue.to(device)


def needs_label_generator(cfg: LossConfig) -> bool:
    """Whether a loss asks for G_l."""
    return bool(cfg.similarity) or bool(cfg.contrast and cfg.contrastive.hard)


def load_label_generator(source: str, cfg: SegmenterConfig, num_classes: int) -> LabelGenerator:
    """G_l from a folder or hub id.

    Raises:
        WeightsError: nothing usable there.
        ConfigError: the label map does not fit.
    """
    label_map = read_label_map(cfg.label_map) if cfg.label_map else None
    return LabelGenerator.from_pretrained(source, num_classes, label_map)


def make_layout(batch: dict[str, Any], cfg: ModelConfig) -> Layout:
    """The conditioning input of a batch."""
    return Layout(
        batch["labels"],
        cfg.num_classes,
        void_channel=cfg.void_channel,
        instance_edges=batch.get("instance_edges") if cfg.instance_edges else None,
    )


class CollateWithLayout:
    """Makes a batch of pairs, with its layout indexed for all layers of G under ``layout``.

    A data loader calls it in its worker processes, so that the training process, and the GPU, find
    the distinct neighbourhoods of the batch's label maps counted.

    Args:
        cfg: networks' settings, complete.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        self.cfg = cfg

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of ``items``."""
        batch = default_collate(items)
        layout = make_layout(batch, self.cfg)
        batch["layout"] = layout.prepare(label_sizes(self.cfg, layout.size))
        return batch


def classes_to_json(classes: ClassTable) -> str:
    """Names, colours and file ids of the classes, as a checkpoint keeps them."""
    return json.dumps(classes.to_values(), indent=1)


def read_classes(path: Path) -> ClassTable:
    """Reads what :func:`classes_to_json` wrote.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    try:
        return ClassTable.from_values(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"class table {path} cannot be read: {error}") from None
