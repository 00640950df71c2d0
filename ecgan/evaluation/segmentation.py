"""Agreement of predicted with true label maps: mIoU, both pixel accuracies, IoU of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecgan.errors import ConfigError

# Table 5: six small classes of Cityscapes, under its names, the paper's short ones and those of
# street scenes that merge two of them.
_SMALL = {
    "pole": "pole",
    "light": "traffic light",
    "traffic light": "traffic light",
    "sign": "traffic sign",
    "traffic sign": "traffic sign",
    "sign_symbol": "traffic sign",
    "rider": "rider",
    "bicyclist": "rider",
    "mbike": "motorcycle",
    "motorcycle": "motorcycle",
    "bike": "bicycle",
    "bicycle": "bicycle",
}


@dataclass
class SegmentationScores:
    """What a confusion matrix says; shares of 1, None where there is nothing to share."""

    miou: float | None
    """Mean IoU over the classes that occur in truth or prediction."""
    acc_all: float | None
    """Hits over all pixels: a void pixel counts as an error (the convention behind values of about
    82 on Cityscapes)."""
    acc_valid: float | None
    """Hits over the pixels that carry a class (the convention behind values of about 93)."""
    iou: list[float | None]
    """IoU of each class; None where it occurs neither in truth nor in prediction."""
    classes: int
    """Classes in the mean."""
    pixels: int
    """Pixels compared."""
    void: int
    """Pixels among them that carry no class."""

    def mean_iou(self, group: Sequence[int]) -> float | None:
        """Mean IoU over those classes of a group that have one; None where none has."""
        values = [value for index in group if (value := self.iou[index]) is not None]
        return sum(values) / len(values) if values else None


class ConfusionMatrix:
    """Counts pairs of true and predicted class over any number of images, in 64-bit integers.

    Args:
        num_classes: classes N; a true label outside 0..N-1 is void, a predicted one is no class.
        evaluated: bool [N], the classes that the segmenter can predict at all. Truth of any other
            class is void, as Cityscapes' protocol has it for all but 19 of its ids. None: all.
        device: where to count.
    """

    def __init__(
        self,
        num_classes: int,
        evaluated: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.num_classes = num_classes
        n = num_classes
        # Row n: void truth; column n: no class predicted.
        self.counts = torch.zeros(n + 1, n + 1, dtype=torch.int64, device=device)
        self.evaluated = (
            torch.ones(n, dtype=torch.bool) if evaluated is None else evaluated.cpu().bool()
        )

    def update(self, truth: Tensor, prediction: Tensor) -> None:
        """Adds label maps.

        Args:
            truth: integer, any shape.
            prediction: integer, the same shape.

        Raises:
            ValueError: the shapes differ.
        """
        if truth.shape != prediction.shape:
            raise ValueError(
                f"truth is {list(truth.shape)} but prediction is {list(prediction.shape)}"
            )
        n, device = self.num_classes, self.counts.device
        rows = _inside(truth.to(device), n)
        # A class that cannot be predicted would be an error of the segmenter, not of the image.
        kept = torch.cat([self.evaluated, torch.ones(1, dtype=torch.bool)]).to(device)
        rows = torch.where(kept[rows], rows, n)
        flat = rows * (n + 1) + _inside(prediction.to(device), n)
        self.counts += torch.bincount(flat.flatten(), minlength=(n + 1) ** 2).view(n + 1, n + 1)

    def scores(self) -> SegmentationScores:
        """The scores of all that was added."""
        n = self.num_classes
        valid = self.counts[:n].cpu()
        hits = valid.diagonal()
        # Predictions on void pixels are left out: nobody knows whether they are wrong.
        unions = valid.sum(1) + valid[:, :n].sum(0) - hits
        iou = [
            hit / union if union and counted else None
            for hit, union, counted in zip(
                hits.tolist(), unions.tolist(), self.evaluated.tolist(), strict=True
            )
        ]
        present = [value for value in iou if value is not None]
        pixels, labelled = int(self.counts.sum()), int(valid.sum())
        hit = int(hits.sum())
        return SegmentationScores(
            miou=sum(present) / len(present) if present else None,
            acc_all=hit / pixels if pixels else None,
            acc_valid=hit / labelled if labelled else None,
            iou=iou,
            classes=len(present),
            pixels=pixels,
            void=pixels - labelled,
        )


def small_objects(names: Sequence[str], wanted: str = "") -> list[int]:
    """The classes of the small-object group.

    Args:
        names: class names.
        wanted: names separated by commas; empty takes those of Table 5 (pole, light, sign, rider,
            mbike, bike) that the data set has, none where it has fewer than two.

    Returns:
        Indices into ``names``.

    Raises:
        ConfigError: a wanted name is no class.
    """
    if not wanted:
        found = [index for index, name in enumerate(names) if name.lower() in _SMALL]
        return found if len(found) > 1 else []
    indices = []
    for name in (part.strip() for part in wanted.split(",")):
        if name not in names:
            raise ConfigError(
                f"small_objects names {name!r}, which is no class: expected some of "
                f"{', '.join(names)}"
            )
        indices.append(list(names).index(name))
    return indices


def _inside(labels: Tensor, num_classes: int) -> Tensor:
    labels = labels.long()
    return torch.where((labels < 0) | (labels >= num_classes), num_classes, labels)
