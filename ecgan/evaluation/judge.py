"""Segmenters that read label maps back from images: transformers models and ONNX files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import JudgeConfig, parse_size
from ecgan.errors import ConfigError, WeightsError
from ecgan.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, file_sha256
from ecgan.models.segmenter import read_label_map

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of the three channels of images in [0, 1]."""

_NORMALIZATIONS: dict[str, Statistics] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "signed": ((0.5,) * 3, (0.5,) * 3),
    "unit": ((0.0,) * 3, (1.0,) * 3),
}
_MASK_CLASSIFIERS = ("maskformer", "mask2former")


class Judge:
    """A frozen segmenter in the data set's class space.

    Args:
        name: folder, hub id or file.
        weights: SHA-256 of its weights, in hexadecimal.
        network: from normalised images [B, 3, h, w] to logits [B, ids, h', w'] or to ids
            [B, h', w'] of an integer type.
        num_classes: classes N of the data set.
        label_map: segmenter's id to class; ids left out are never predicted. None: identity.
        statistics: mean and deviation that the network wants.
        size: height and width at which it sees images; None: as they come.
        device: where it computes.

    Attributes:
        evaluated: bool [N], the classes that it can predict.
        remark: what a reader of its scores must know; may be empty.

    Raises:
        ConfigError: the label map is empty or names a class that does not exist.
    """

    def __init__(
        self,
        name: str,
        weights: str,
        network: Callable[[Tensor], Tensor],
        num_classes: int,
        *,
        label_map: Mapping[int, int] | None = None,
        statistics: Statistics = _NORMALIZATIONS["imagenet"],
        size: tuple[int, int] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.name = name
        self.weights = weights
        self.remark = ""
        self.device = device or torch.device("cpu")
        self.statistics = statistics
        self.size = size
        self._network = network
        self._num_classes = num_classes
        self._label_map = label_map
        self.evaluated = torch.ones(num_classes, dtype=torch.bool)
        if label_map is not None:
            if not label_map:
                raise ConfigError("the segmenter's label map is empty: expected 'id: class' lines")
            if min(label_map) < 0 or not all(0 <= t < num_classes for t in label_map.values()):
                raise ConfigError(
                    f"the segmenter's label map holds id {min(label_map)} or class "
                    f"{max(label_map.values())}: expected ids from 0 and classes "
                    f"0..{num_classes - 1}"
                )
            self.evaluated = torch.zeros(num_classes, dtype=torch.bool)
            self.evaluated[list(label_map.values())] = True
        mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(self.device) for v in statistics)
        self._mean, self._std = mean, std

    @property
    def prepares(self) -> str:
        """How an image is prepared for it, in words."""
        size = "the compared size" if self.size is None else f"{self.size[0]}x{self.size[1]}"
        mean, std = (", ".join(f"{v:g}" for v in values) for values in self.statistics)
        return f"{size}, mean ({mean}), deviation ({std})"

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Label maps, int64 [B, H, W], of images, float [B, 3, H, W] in [-1, 1].

        Logits are enlarged bilinearly before the class is taken; N stands for no class.

        Raises:
            WeightsError: the network does not take such images or answers something else.
        """
        shape = (image.shape[2], image.shape[3])
        x = (image.to(self.device) + 1) / 2
        if self.size is not None and self.size != shape:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        try:
            out = self._network((x - self._mean) / self._std)
        except (RuntimeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"segmenter {self.name} does not take images of {x.shape[2]}x{x.shape[3]}: "
                f"{reason}; segmenter.size sets another size"
            ) from error
        if out.is_floating_point() and out.dim() == 4:
            return self._from_logits(out, shape)
        if not out.is_floating_point() and out.dim() == 4 and out.shape[1] == 1:
            out = out[:, 0]
        if out.is_floating_point() or out.dim() != 3:
            raise WeightsError(
                f"segmenter {self.name} answers {out.dtype} of shape {list(out.shape)}: expected "
                "logits [B, ids, h, w] or integer ids [B, h, w]"
            )
        ids = F.interpolate(out[:, None].double(), shape, mode="nearest-exact")[:, 0].long()
        table = torch.full((max(int(ids.max()), self._highest()) + 2,), self._num_classes)
        for source, target in self._pairs(self._highest() + 1):
            table[source] = target
        return table.to(ids.device)[torch.where(ids < 0, len(table) - 1, ids)]

    def _from_logits(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        ids = logits.shape[1]
        if self._label_map is None and ids != self._num_classes:
            raise WeightsError(
                f"segmenter {self.name} predicts {ids} classes but the data set has "
                f"{self._num_classes}: give segmenter.label_map, from its ids to the data set's"
            )
        if self._highest() >= ids:
            raise ConfigError(
                f"the segmenter's label map names id {self._highest()}, but {self.name} has ids "
                f"0..{ids - 1}"
            )
        sources, targets = zip(*self._pairs(ids), strict=True)
        logits = logits[:, list(sources)].float()
        logits = F.interpolate(logits, shape, mode="bilinear", align_corners=False)
        return torch.tensor(targets, device=logits.device)[logits.argmax(1)]

    def _highest(self) -> int:
        return self._num_classes - 1 if self._label_map is None else max(self._label_map)

    def _pairs(self, ids: int) -> list[tuple[int, int]]:
        if self._label_map is None:
            return [(index, index) for index in range(ids)]
        return sorted(self._label_map.items())


def build_judge(cfg: JudgeConfig, num_classes: int, device: torch.device) -> Judge:
    """Loads the segmenter that ``cfg.source`` names.

    Raises:
        WeightsError: it cannot be loaded; the message says why.
        ConfigError: a setting does not fit.
    """
    label_map = read_label_map(cfg.label_map) if cfg.label_map else None
    size = parse_size(cfg.size) if cfg.size else None
    if cfg.source.lower().endswith(".onnx"):
        network, weights, own = _load_onnx(Path(cfg.source).expanduser())
        statistics = None
    else:
        network, weights, statistics = _load_transformers(cfg.source, device)
        own = None
    if own is not None:
        if size not in (None, own):
            raise ConfigError(
                f"segmenter.size is {cfg.size}, but {cfg.source} takes {own[0]}x{own[1]} only"
            )
        size = own
    if cfg.normalize != "auto" or statistics is None:
        statistics = _NORMALIZATIONS["imagenet" if cfg.normalize == "auto" else cfg.normalize]
    return Judge(
        cfg.source,
        weights,
        network,
        num_classes,
        label_map=label_map,
        statistics=statistics,
        size=size,
        device=device,
    )


def _load_transformers(
    source: str, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], str, Statistics | None]:
    from transformers import (
        AutoConfig,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
    )
    from transformers.utils import logging

    # No hub id looks like this; the hub client would retry for half a minute before it says so.
    if (source.startswith((".", "/", "~")) or source.count("/") > 1) and not Path(source).is_dir():
        raise WeightsError(f"the segmenter's folder {source} does not exist")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        masks = kind in _MASK_CLASSIFIERS
        loader = AutoModelForUniversalSegmentation if masks else AutoModelForSemanticSegmentation
        loaded: Any = loader.from_pretrained(source, use_safetensors=True, output_loading_info=True)
        weights = _safetensors_hash(source)
        statistics = _preprocessor(source)
    except Exception as error:
        # transformers, the hub client and safetensors raise types that share no base class.
        reason = " ".join(str(error).split())[:400]
        raise WeightsError(
            f"cannot load a semantic-segmentation model with safetensors weights from {source!r}, "
            f"which must be a folder or a reachable hub id: {reason}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    model, report = loaded
    # transformers fills what a file lacks with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        raise WeightsError(
            f"the weights in {source!r} are not those of a {kind} for segmentation: "
            f"{len(missing)} tensors are missing, the first is {missing[0]}"
        )
    model = model.to(device).eval().requires_grad_(False)
    if masks:
        return lambda x: _classify_masks(model, x), weights, statistics
    return lambda x: model(pixel_values=x).logits, weights, statistics


def _classify_masks(model: nn.Module, image: Tensor) -> Tensor:
    """Class scores of a mask classifier: sum over queries of class times mask probability."""
    out = model(pixel_values=image)
    classes = out.class_queries_logits.softmax(-1)[..., :-1]  # the last is "no object"
    return torch.einsum("bqc,bqhw->bchw", classes, out.masks_queries_logits.sigmoid())


def _cached(source: str, name: str) -> Path | None:
    from transformers.utils import cached_file

    found = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _safetensors_hash(source: str) -> str:
    single = _cached(source, "model.safetensors")
    if single is not None:
        return file_sha256(single)
    index = _cached(source, "model.safetensors.index.json")
    if index is None:
        return "unknown"
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    digest = hashlib.sha256()
    for name in names:
        shard = _cached(source, name)
        digest.update(file_sha256(shard).encode() if shard else b"")
    return digest.hexdigest()


def _preprocessor(source: str) -> Statistics | None:
    path = _cached(source, "preprocessor_config.json")
    if path is None:
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if not values.get("do_normalize", True):
        return _NORMALIZATIONS["unit"]
    mean, std = values.get("image_mean"), values.get("image_std")
    if not isinstance(mean, list) or not isinstance(std, list) or len(mean) != 3 or len(std) != 3:
        return None
    return tuple(map(float, mean)), tuple(map(float, std))


def _load_onnx(path: Path) -> tuple[Callable[[Tensor], Tensor], str, tuple[int, int] | None]:
    if not path.is_file():
        raise WeightsError(f"the segmenter's file {path} does not exist")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"segmenter {path} needs onnxruntime, which is not installed: "
            "pip install 'ecgan[evaluate]'"
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"cannot load {path} as an ONNX model: {reason}") from error
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or inputs[0].type != "tensor(float)":
        raise WeightsError(
            f"{path} takes {len(inputs)} inputs, the first {inputs[0].type} of shape {shape}: "
            "expected one float image [B, 3, H, W]"
        )
    one_by_one = shape[0] == 1
    size = (shape[2], shape[3]) if all(isinstance(side, int) for side in shape[2:]) else None

    def run(image: Tensor) -> Tensor:
        parts = image.split(1) if one_by_one else (image,)
        outputs = []
        for part in parts:
            try:
                out = session.run(None, {inputs[0].name: part.float().cpu().numpy()})[0]
            except Exception as error:
                raise RuntimeError(str(error)) from error
            outputs.append(torch.from_numpy(out))
        return torch.cat(outputs).to(image.device)

    return run, file_sha256(path), size
