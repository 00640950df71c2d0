"""One evaluation: the real photos first, then every system by the same protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ecgan.config import EvaluateConfig, parse_size
from ecgan.data import PairDataset
from ecgan.errors import ConfigError
from ecgan.evaluation.diversity import MeanPairwiseDistance, PerceptualDistance
from ecgan.evaluation.features import FeatureNetwork
from ecgan.evaluation.frechet import FeatureStatistics, frechet_distance, kernel_distance
from ecgan.evaluation.judge import Judge
from ecgan.evaluation.pairs import EvaluationPairs, to_signed
from ecgan.evaluation.protocol import Evaluation, Number, SystemNumbers
from ecgan.evaluation.segmentation import ConfusionMatrix, SegmentationScores, small_objects
from ecgan.evaluation.systems import Batch, Comparison, NetworkSystem, System

Progress = Callable[[str, int, int], None]
"""Called with what is under way, the number of label maps done and the number of all."""

REAL = "real photos"


class Evaluator:
    """Measures systems on the pairs of a data set.

    Args:
        cfg: the evaluation.
        data: pairs whose label maps are used.
        reference: data set of the real photos that distances compare with; None: ``data``.
        judge: segmenter; None: no mIoU and no Acc.
        features: network of the distances; None: no distances.
        distance: measure of diversity; None: no diversity.
        device: where networks compute.
        progress: told what is done.

    Raises:
        ConfigError: a setting cannot work.
    """

    def __init__(
        self,
        cfg: EvaluateConfig,
        data: PairDataset,
        *,
        reference: PairDataset | None = None,
        judge: Judge | None = None,
        features: FeatureNetwork | None = None,
        distance: PerceptualDistance | None = None,
        device: torch.device | None = None,
        progress: Progress | None = None,
    ) -> None:
        _check(cfg)
        self.cfg = cfg
        self.data = data
        self.reference = reference
        self.judge = judge
        self.device = device or torch.device("cpu")
        self.features = None if features is None else features.to(self.device)
        self.distance = None if distance is None else distance.to(self.device)
        self.comparison = Comparison(parse_size(cfg.size), cfg.filter, cfg.limit, cfg.seed)
        self.small = small_objects(data.class_names, cfg.small_objects)
        self._progress = progress or (lambda stage, done, total: None)
        self._real_scores: SegmentationScores | None = None
        self._real_features: FeatureStatistics | None = None

    def run(self, systems: Sequence[System]) -> Evaluation:
        """Evaluates systems; what is wrong with any of them is found before any is run.

        Raises:
            ECGANError: names that are not unique, classes that do not agree, images that are
                missing.
        """
        names = [REAL, *(system.name for system in systems)]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"two systems are named {repeated[0]!r}: name them apart with NAME=PATH"
            )
        opened = [system.open(self.data, self.comparison) for system in systems]
        rows = [self._real()]
        for system, pairs in zip(systems, opened, strict=True):
            rows.append(self._system(system, pairs))
        return Evaluation(
            settings=self._settings(rows[0].images),
            systems=rows,
            small_objects=[self.data.class_names[index] for index in self.small],
            remarks=self._remarks(rows),
        )

    def _real(self) -> SystemNumbers:
        pairs = EvaluationPairs(
            self.data, self.comparison.size,
            resampling=self.comparison.resampling, limit=self.comparison.limit,
        )  # fmt: skip
        scores, features = self._pass(REAL, pairs, lambda batch: batch["image"])
        self._real_scores, self._real_features = scores, features
        if self.reference is not None and self.features is not None:
            others = EvaluationPairs(
                self.reference, self.comparison.size,
                resampling=self.comparison.resampling, limit=self.comparison.limit,
            )  # fmt: skip
            stage = f"reference photos ({self.reference.split})"
            _, self._real_features = self._pass(
                stage, others, lambda batch: batch["image"], judged=False
            )
        row = SystemNumbers(REAL, self.data.name, "", len(pairs))
        self._add_scores(row, scores, {})
        return row

    def _system(self, system: System, pairs: Dataset[Batch]) -> SystemNumbers:
        scores, features = self._pass(system.name, pairs, system.images)
        row = SystemNumbers(system.name, system.origin, system.weights, len(pairs))  # type: ignore[arg-type]
        facts = system.facts()
        self._add_scores(row, scores, facts)
        if self.features is not None and features is not None:
            row.numbers += self._distances(features, facts)
        if self.distance is not None and isinstance(system, NetworkSystem):
            row.numbers += self._diversity(system, pairs, facts)
        return row

    @torch.no_grad()
    def _pass(
        self,
        stage: str,
        pairs: Dataset[Batch],
        images: Callable[[Batch], Tensor],
        judged: bool = True,
    ) -> tuple[SegmentationScores | None, FeatureStatistics | None]:
        matrix = statistics = None
        if self.judge is not None and judged:
            matrix = ConfusionMatrix(self.data.num_classes, self.judge.evaluated, self.judge.device)
        if self.features is not None:
            statistics = FeatureStatistics(self.features.dimension)
        for batch in self._batches(stage, pairs):
            signed = to_signed(images(batch).to(self.device))
            if matrix is not None and self.judge is not None:
                matrix.update(batch["labels"], self.judge(signed))
            if statistics is not None and self.features is not None:
                statistics.update(self.features(signed))
        return None if matrix is None else matrix.scores(), statistics

    def _batches(self, stage: str, pairs: Dataset[Batch]) -> Iterator[Batch]:
        total, done = len(pairs), 0  # type: ignore[arg-type]
        self._progress(stage, 0, total)
        for batch in DataLoader(pairs, self.cfg.batch_size, num_workers=self.cfg.workers):
            yield batch
            done += len(batch["labels"])
            self._progress(stage, done, total)

    def _add_scores(
        self, row: SystemNumbers, scores: SegmentationScores | None, facts: dict[str, object]
    ) -> None:
        if scores is None or self.judge is None or self._real_scores is None:
            return
        real = self._real_scores
        shared = {
            **self._common(row.images),
            **facts,
            "segmenter": self.judge.name,
            "segmenter_weights": self.judge.weights,
            "segmenter_input": self.judge.prepares,
            "classes_in_mean": scores.classes,
            "classes_evaluated": int(self.judge.evaluated.sum()),
            "classes": self.data.num_classes,
            "void_share": scores.void / max(1, scores.pixels),
        }
        small = [self.data.class_names[index] for index in self.small]
        values: list[tuple[str, float | None, float | None, dict[str, object]]] = [
            ("miou", scores.miou, real.miou, {}),
            ("acc_all", scores.acc_all, real.acc_all, {"void": "counts as an error"}),
            ("acc_valid", scores.acc_valid, real.acc_valid, {"void": "left out"}),
        ]
        if small:
            of, beside = scores.mean_iou(self.small), real.mean_iou(self.small)
            values.append(("small_objects_miou", of, beside, {"group": small}))
        for name, value, beside, more in values:
            protocol = {**shared, **more, "on_real_photos": _percent(beside)}
            row.numbers.append(Number(name, _percent(value), "%", True, protocol))
        row.iou = {
            name: _percent(value)
            for name, value in zip(self.data.class_names, scores.iou, strict=True)
        }

    def _distances(self, made: FeatureStatistics, facts: dict[str, object]) -> list[Number]:
        network, real = self.features, self._real_features
        assert network is not None
        assert real is not None
        if min(made.count, real.count) < 2:
            return []
        protocol = {
            **self._common(made.count),
            **facts,
            "reference": f"real photos of {self.data.name} ({self._reference_split()})",
            "reference_images": real.count,
            "network": network.name,
            "network_weights": network.weights,
            "network_input": network.prepares,
            "dimension": network.dimension,
            "remark": network.remark,
        }
        kernel = kernel_distance(
            real, made, subsets=self.cfg.kid_subsets, subset_size=self.cfg.kid_subset_size
        )
        drawn = {
            "kernel": "(x . y / D + 1)^3",
            "subsets": kernel.subsets,
            "subset_size": kernel.subset_size,
            "deviation": kernel.deviation,
        }
        return [
            Number(network.frechet_name, frechet_distance(real, made), "", False, protocol),
            Number(network.kernel_name, kernel.value, "", False, {**protocol, **drawn}),
        ]

    @torch.no_grad()
    def _diversity(
        self, system: NetworkSystem, pairs: Dataset[Batch], facts: dict[str, object]
    ) -> list[Number]:
        assert self.distance is not None
        wanted = self.cfg.diversity
        styled = system.cfg.style != "none"
        if wanted.measure == "off" or (wanted.measure == "auto" and not styled):
            return []
        found: dict[str, list[Tensor]] = {"images": [], "edges": []}
        for batch in self._batches(f"{system.name}, {wanted.samples} styles", pairs):
            means = {kind: MeanPairwiseDistance(self.distance) for kind in found}
            for image, edge in system.samples(batch, wanted.samples):
                means["images"].update(to_signed(image).to(self.device))
                if edge is not None:
                    means["edges"].update(to_signed(edge).to(self.device))
            for kind, mean in means.items():
                if mean.count:
                    found[kind].append(mean.means())
        numbers = []
        for kind, parts in found.items():
            if not parts:
                continue
            values = torch.cat(parts)
            protocol = {
                **self._common(len(values)),
                **facts,
                "samples": wanted.samples,
                "mean_over": "all pairs of samples, then label maps",
                "deviation_over_label_maps": values.std().item() if len(values) > 1 else None,
                "network": self.distance.name,
                "network_weights": dict(self.distance.weights),
            }
            name = f"{self.distance.name}_{kind}"
            numbers.append(Number(name, values.mean().item(), "", True, protocol))
        return numbers

    def _common(self, images: int) -> dict[str, object]:
        size = f"{self.comparison.size[0]}x{self.comparison.size[1]}"
        return {
            "data": self.data.name,
            "split": self.data.split,
            "images": images,
            "size": size,
            "image_filter": f"{self.comparison.resampling} (Pillow, antialiased)",
            "label_filter": "nearest",
        }

    def _reference_split(self) -> str:
        return (self.reference or self.data).split

    def _settings(self, images: int) -> dict[str, object]:
        settings = self._common(images)
        if self.judge is not None:
            count = int(self.judge.evaluated.sum())
            settings["segmentation"] = (
                f"mIoU and Acc in percent by segmenter {self.judge.name} (weights "
                f"{self.judge.weights[:12]}; input: {self.judge.prepares}), {count} of "
                f"{self.data.num_classes} classes; its score on the real photos is the first row. "
                "Acc (all) counts void pixels as errors, Acc (valid) leaves them out."
            )
        if self.features is not None and self._real_features is not None:
            settings["distances"] = (
                f"Distances to {self._real_features.count} real photos "
                f"({self._reference_split()}) in {self.features.dimension} features of "
                f"{self.features.name} (weights {self.features.weights[:12]}; input: "
                f"{self.features.prepares})."
            )
        if self.distance is not None:
            settings["diversity"] = (
                f"Diversity by {self.distance.name}: mean over all pairs of "
                f"{self.cfg.diversity.samples} images of a label map, then over label maps."
            )
        return settings

    def _remarks(self, rows: Sequence[SystemNumbers]) -> list[str]:
        remarks = []
        if self.judge is not None and self.judge.remark:
            remarks.append(self.judge.remark)
        if self._real_scores is not None and rows[0].iou is not None:
            left_out = self.data.num_classes - self._real_scores.classes
            if left_out:
                remarks.append(
                    f"{left_out} of {self.data.num_classes} classes have no IoU on the real "
                    "photos (not evaluated, or neither in truth nor in prediction) and no part in "
                    "the mean."
                )
        if self.features is not None and self._real_features is not None:
            if self.features.remark:
                remarks.append(f"Distances: {self.features.remark}.")
            fewest = min([self._real_features.count, *(row.images for row in rows[1:])])
            if fewest < 2:
                remarks.append("Distances need at least 2 images and were left out.")
            elif fewest <= self.features.dimension:
                remarks.append(
                    f"{fewest} images for {self.features.dimension} features: Fréchet's distance "
                    "is biased upwards so much that only numbers from the same count compare."
                )
        return remarks


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _check(cfg: EvaluateConfig) -> None:
    for name, value, least in (
        ("limit", cfg.limit, 0),
        ("batch_size", cfg.batch_size, 1),
        ("workers", cfg.workers, 0),
        ("kid_subsets", cfg.kid_subsets, 1),
        ("kid_subset_size", cfg.kid_subset_size, 2),
        ("diversity.samples", cfg.diversity.samples, 2),
    ):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
