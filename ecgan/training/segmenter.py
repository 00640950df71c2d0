"""Training of the small segmenter that serves as label generator G_l."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers.utils import logging

from ecgan.config import SegmenterTrainConfig, parse_size
from ecgan.data import PairDataset
from ecgan.errors import ConfigError
from ecgan.models.pretrained import ImageNetNormalize
from ecgan.models.segmenter import build_small_segformer
from ecgan.training.build import Check, open_data
from ecgan.training.environment import choose_device
from ecgan.training.loading import batches_of
from ecgan.training.progress import TrainingProgress, memory_gib
from ecgan.training.run_folder import check_free, default_run_folder
from ecgan.training.sampler import StepSampler
from ecgan.training.settings import to_yaml

if TYPE_CHECKING:
    from transformers import SegformerForSemanticSegmentation

_LOG_EVERY = 25


@dataclass
class SegmenterScore:
    """How well a segmenter does on the validation pairs; void pixels do not count."""

    pixel_accuracy: float
    miou: float
    """Mean over the classes that occur in labels or predictions."""
    pairs: int
    steps: int

    def __str__(self) -> str:
        return (
            f"pixel accuracy {self.pixel_accuracy:.1%}, mIoU {self.miou:.1%} "
            f"on {self.pairs} validation pairs"
        )


def train_segmenter(cfg: SegmenterTrainConfig, check: Check | None = None) -> Path:
    """Trains a small SegFormer on pairs and saves it for ``segmenter.source``.

    Args:
        cfg: the run.
        check: told how many pairs have been checked.

    Returns:
        The segmenter's folder.

    Raises:
        ECGANError: a setting or a pair cannot be used; nothing is written then.
    """
    for name, value in (("steps", cfg.steps), ("batch_size", cfg.batch_size)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    if cfg.lr <= 0:
        raise ConfigError(f"lr must be above 0, not {cfg.lr}")
    parse_size(cfg.size)
    device = choose_device(cfg.device)
    out = Path(cfg.out) if cfg.out else default_run_folder(cfg.data, "segmenter")
    check_free(out)
    data = open_data(cfg.dataset, cfg.data, cfg.size, cfg.seed, check=check)
    fit_segmenter(
        data,
        out,
        steps=cfg.steps,
        batch_size=cfg.batch_size,
        lr=cfg.lr,
        seed=cfg.seed,
        device=device,
    )
    (out / "train.yaml").write_text(to_yaml(cfg), encoding="utf-8")
    return out


def fit_segmenter(
    data: tuple[PairDataset, PairDataset],
    out: Path,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: torch.device,
) -> SegmenterScore:
    """Trains from scratch with cross-entropy and AdamW, scores and saves.

    The folder holds what ``save_pretrained`` writes (config.json with the class names,
    model.safetensors) and score.json. It appears at once, when complete.

    Args:
        data: training and validation pairs.
        out: the folder to make.
        steps: training steps.
        batch_size: pairs per step.
        lr: learning rate, decayed linearly to 0.
        seed: of weights and order.
        device: where to train.

    Returns:
        The score on the validation pairs.
    """
    train_set, val_set = data
    torch.manual_seed(seed)
    model = build_small_segformer(train_set.num_classes)
    model.to(device)  # type: ignore[arg-type]
    model.config.id2label = dict(enumerate(train_set.class_names))
    model.config.label2id = {name: i for i, name in enumerate(train_set.class_names)}
    normalize = ImageNetNormalize().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    loader = DataLoader(
        train_set,
        batch_sampler=StepSampler(len(train_set), batch_size, steps, seed=seed),
        num_workers=train_set.cfg.workers,
        generator=torch.Generator(),
    )
    model.train()
    with TrainingProgress(steps, title="segmenter") as progress:
        for step, batch in enumerate(batches_of(loader), 1):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(step / 10, 1 - (step - 1) / steps)
            labels = batch["labels"].to(device)
            logits = model(pixel_values=normalize(batch["image"].to(device))).logits
            loss = _cross_entropy(logits, labels, train_set.num_classes)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            progress.advance(step)
            if step == steps or step % _LOG_EVERY == 0:
                rate = batch_size * step / progress.seconds
                row = {
                    "cross_entropy": loss.item(),
                    "images_per_second": rate,
                    "memory_gib": memory_gib(device),
                }
                progress.report(step, row, ["cross_entropy"])
        score = _score(model, normalize, val_set, batch_size, steps, device)
        progress.say(f"segmenter: {score}")
    _save(model, score, out)
    return score


def read_score(folder: Path) -> dict[str, float]:
    """The score that a segmenter's folder records; empty where it has none."""
    path = folder / "score.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _cross_entropy(logits: Tensor, labels: Tensor, void: int) -> Tensor:
    logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, labels, ignore_index=void, reduction="sum")
    return total / (labels != void).sum().clamp_min(1)


@torch.no_grad()
def _score(
    model: SegformerForSemanticSegmentation,
    normalize: ImageNetNormalize,
    pairs: PairDataset,
    batch_size: int,
    steps: int,
    device: torch.device,
) -> SegmenterScore:
    model.eval()
    n = pairs.num_classes
    confusion = torch.zeros(n, n, dtype=torch.int64, device=device)
    for batch in DataLoader(pairs, batch_size, num_workers=pairs.cfg.workers):
        labels = batch["labels"].to(device)
        logits = model(pixel_values=normalize(batch["image"].to(device))).logits
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        valid = labels < n
        flat = labels[valid] * n + logits.argmax(1)[valid]
        confusion += torch.bincount(flat, minlength=n * n).view(n, n)
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    iou = hits[union > 0] / union[union > 0]
    return SegmenterScore(
        pixel_accuracy=(hits.sum() / confusion.sum().clamp_min(1)).item(),
        miou=iou.mean().item() if len(iou) else 0.0,
        pairs=len(pairs),
        steps=steps,
    )


def _save(model: SegformerForSemanticSegmentation, score: SegmenterScore, out: Path) -> None:
    temporary = out.with_name(f".{out.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    logging.disable_progress_bar()
    model.save_pretrained(temporary)
    (temporary / "score.json").write_text(json.dumps(asdict(score), indent=1), encoding="utf-8")
    if out.exists():  # an empty folder, as callers checked
        out.rmdir()
    temporary.rename(out)
