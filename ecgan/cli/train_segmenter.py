"""``ecgan train-segmenter``."""

from __future__ import annotations

from collections.abc import Sequence

from ecgan.cli.arguments import CheckProgress, normalize
from ecgan.config import SegmenterTrainConfig
from ecgan.training.settings import instantiate, make_parser

_DESCRIPTION = """Trains a small SegFormer from scratch on pairs of label map and photo, prints its
pixel accuracy and mIoU on the validation pairs and saves it for --segmenter.source of ecgan train
(which does the same by itself where that is auto)."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan train-segmenter --help``."""
    parser = make_parser(
        SegmenterTrainConfig,
        "ecgan train-segmenter",
        usage="ecgan train-segmenter [--data DIR] [--size HxW] [--steps N] [--out DIR] "
        "[--KEY VALUE ...]",
        description=_DESCRIPTION,
    )
    cfg = instantiate(parser, SegmenterTrainConfig, parser.parse_args(normalize(arguments)))

    from ecgan.training import train_segmenter

    folder = train_segmenter(cfg, CheckProgress())
    print(f"segmenter: {folder}")
    return 0
