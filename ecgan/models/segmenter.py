"""Label generator G_l: a frozen SegFormer that turns an image back into a label map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor
from typing_extensions import Self

from ecgan.config import SegmenterConfig
from ecgan.errors import ConfigError, WeightsError
from ecgan.models.pretrained import FrozenNetwork, ImageNetNormalize

if TYPE_CHECKING:
    from transformers import SegformerForSemanticSegmentation

# Logit of a class that the segmenter cannot predict: probability 0 after a softmax, yet finite
# and within float16.
ABSENT = -1e4


class LabelGenerator(FrozenNetwork):
    """G_l (Section 3.2): image to label logits in the data set's class space.

    A pretrained network that training leaves alone [R4]: parameters need no gradient and the module
    stays in evaluation mode even after ``train()``. Gradients flow to the image.

    Attributes:
        covered: bool [N], the classes that the segmenter can predict.
    """

    sources: Tensor
    covered: Tensor

    def __init__(
        self,
        model: SegformerForSemanticSegmentation,
        num_classes: int,
        label_map: Mapping[int, int] | None = None,
    ) -> None:
        """Wraps a SegFormer and freezes it.

        Args:
            model: segmenter; its logits are at a quarter of the image's resolution.
            num_classes: N, classes of the data set.
            label_map: segmenter's class id to the data set's class id. Several ids may share a
                class (their probabilities add up); ids that are left out are never predicted.
                None is the identity.

        Raises:
            WeightsError: no label_map, and the segmenter has not N classes.
            ConfigError: label_map names an id that does not exist.
        """
        super().__init__()
        ids = model.decode_head.classifier.out_channels
        if label_map is None:
            if ids != num_classes:
                raise WeightsError(
                    f"the segmenter predicts {ids} classes but the data set has {num_classes}: "
                    "give a label map from the segmenter's ids to the data set's"
                )
            label_map = {index: index for index in range(num_classes)}
        groups: list[list[int]] = [[] for _ in range(num_classes)]
        for source, target in label_map.items():
            if not 0 <= source < ids or not 0 <= target < num_classes:
                raise ConfigError(
                    f"the label map sends segmenter id {source} to class {target}, but there are "
                    f"segmenter ids 0..{ids - 1} and classes 0..{num_classes - 1}"
                )
            groups[target].append(source)
        if not any(groups):
            raise ConfigError("the label map is empty: no class of the data set has a segmenter id")
        # Row n lists the segmenter's channels of class n, padded with a channel of ABSENT.
        width = max(len(group) for group in groups)
        table = [group + [ids] * (width - len(group)) for group in groups]
        self.model = model
        self.normalize = ImageNetNormalize()
        self.register_buffer("sources", torch.tensor(table))
        self.register_buffer("covered", torch.tensor([bool(group) for group in groups]))
        self.freeze()

    @classmethod
    def from_pretrained(
        cls, source: str, num_classes: int, label_map: Mapping[int, int] | None = None
    ) -> Self:
        """Loads a SegFormer from a folder that ``save_pretrained`` wrote or from the hub.

        Only safetensors files are read, never pickles.

        Args:
            source: folder, or hub id such as ``nvidia/segformer-b0-finetuned-ade-512-512``.
            num_classes: N, classes of the data set.
            label_map: see the class.

        Raises:
            WeightsError: nothing usable there; the message says what.
            ConfigError: see the class.
        """
        return cls(_load_segformer(source), num_classes, label_map)

    def forward(self, image: Tensor) -> Tensor:
        """Label logits of an image.

        Args:
            image: float [B, 3, H, W] in [-1, 1].

        Returns:
            Float [B, N, ceil(H/4), ceil(W/4)] in float32.
        """
        logits = self.model(pixel_values=self.normalize(image)).logits.float()
        absent = logits.new_full((len(logits), 1, *logits.shape[2:]), ABSENT)
        gathered = torch.cat([logits, absent], 1)[:, self.sources]
        if self.sources.shape[1] == 1:
            return gathered.squeeze(2)
        return gathered.logsumexp(2)


def read_label_map(path: str | Path) -> dict[int, int]:
    """Reads a label map: a YAML file of lines ``segmenter_id: class_id``.

    Raises:
        ConfigError: the file cannot be read or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read the label map {path}: {reason}") from error
    if not isinstance(content, dict) or not all(
        type(key) is int and type(value) is int for key, value in content.items()
    ):
        raise ConfigError(f"the label map {path} must hold lines 'segmenter_id: class_id'")
    return content


def build_small_segformer(num_classes: int) -> SegformerForSemanticSegmentation:
    """A SegFormer small enough to train from scratch on a CPU in a minute or two.

    Four stages of one block each (widths 16, 32, 64, 128), strides 4 to 32 as in SegFormer-B0,
    about 0.4 million parameters, randomly initialised.

    Args:
        num_classes: N, classes of the data set.
    """
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 64, 128],
        num_attention_heads=[1, 1, 2, 4],
        mlp_ratios=[4, 4, 4, 4],
        decoder_hidden_size=64,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
        id2label={index: str(index) for index in range(num_classes)},
        label2id={str(index): index for index in range(num_classes)},
    )
    return SegformerForSemanticSegmentation(config)


def blank_label_generator(cfg: SegmenterConfig, num_classes: int) -> LabelGenerator:
    """G_l as configured but with random weights, to see what memory it takes.

    Raises:
        WeightsError: the segmenter's configuration cannot be read or does not fit.
        ConfigError: the label map does not fit.
    """
    if cfg.source == "auto":
        return LabelGenerator(build_small_segformer(num_classes), num_classes)
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    try:
        config = SegformerConfig.from_pretrained(cfg.source)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"the segmenter's configuration {cfg.source} cannot be read: "
            f"{' '.join(str(error).split())}"
        ) from None
    label_map = read_label_map(cfg.label_map) if cfg.label_map else None
    return LabelGenerator(SegformerForSemanticSegmentation(config), num_classes, label_map)


def _load_segformer(source: str) -> SegformerForSemanticSegmentation:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    # No hub id looks like this; the hub client would retry for half a minute before it says so.
    if (source.startswith((".", "/", "~")) or source.count("/") > 1) and not Path(source).is_dir():
        raise WeightsError(f"the segmenter's folder {source} does not exist")
    try:
        kind = SegformerConfig.get_config_dict(source)[0].get("model_type")
        if kind != "segformer":
            raise ValueError(f"its config.json says model_type {kind!r}, not 'segformer'")
        with _quiet_transformers():
            loaded: Any = SegformerForSemanticSegmentation.from_pretrained(
                source,
                use_safetensors=True,
                output_loading_info=True,
                # Counted below, so that misshapen weights give our sentence and not a table.
                ignore_mismatched_sizes=True,
            )
    except Exception as error:
        # transformers, the hub client and safetensors raise types that share no base class.
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"cannot load a SegFormer with safetensors weights from {source!r}, which must be a "
            f"folder or a reachable hub id: {reason}"
        ) from error
    model, report = loaded
    # transformers fills what a file lacks with random numbers and only warns.
    misshapen = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    unfit = sorted(misshapen | set(report["missing_keys"]))
    if unfit:
        raise WeightsError(
            f"the weights in {source!r} are not those of a SegFormer for segmentation: "
            f"{len(unfit)} tensors are missing or misshapen, the first is {unfit[0]}"
        )
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no table of missing keys: we report what is wrong ourselves."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
