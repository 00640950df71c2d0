"""``ecgan figures``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ecgan.cli.arguments import Parser
from ecgan.errors import ConfigError

if TYPE_CHECKING:
    from ecgan.config import TrainConfig
    from ecgan.models.segmenter import LabelGenerator

_DESCRIPTION = "Draws the paper's figures from a run, as PDF with vector text and as PNG."


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan figures --help``."""
    from argparse import RawDescriptionHelpFormatter

    from ecgan.figures import FIGURES

    listing = "\n".join(f"  {name:<14} {entry.title}" for name, entry in FIGURES.items())
    parser = Parser(
        prog="ecgan figures",
        description=_DESCRIPTION,
        epilog=f"figures:\n{listing}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="RUN|CHECKPOINT", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", metavar="DIR", help="default: the run's data")
    parser.add_argument(
        "--figure", nargs="+", default=[], metavar="NAME", help="default: all that can be drawn"
    )
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="NAME", help="validation pairs (default: four)"
    )
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="of features and small-objects"
    )
    parser.add_argument(
        "--other",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another system's images, by the pairs' names; may be repeated",
    )
    parser.add_argument(
        "--segmenter", metavar="DIR|ID", help="SegFormer for segmentations (default: the run's)"
    )
    parser.add_argument("--hed-weights", metavar="FILE", help="for edges (default: the run's)")
    parser.add_argument("--seed", type=int, default=1, help="of the styles (default: 1)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args(arguments)
    unknown = [name for name in given.figure if name not in FIGURES]
    if unknown:
        raise ConfigError(f"there is no figure {unknown[0]!r}; figures are {', '.join(FIGURES)}")
    others = _others(given.other)

    from ecgan.config import EdgeConfig, parse_size
    from ecgan.data import build_dataset
    from ecgan.figures import draw_figures, gather
    from ecgan.models.hed import build_hed
    from ecgan.training import load_generator
    from ecgan.training.checkpoint_folder import find_checkpoint
    from ecgan.training.environment import choose_device
    from ecgan.training.settings import load_config

    device = choose_device(given.device)
    checkpoint = find_checkpoint(given.source)
    cfg = load_config(checkpoint / "config.yaml")
    generator, classes = load_generator(checkpoint, device)
    hed_weights = given.hed_weights or cfg.dataset.edges.hed_weights
    # The figures compute the edges that they show.
    dataset = dataclasses.replace(cfg.dataset, edges=EdgeConfig())
    data = build_dataset(
        dataset, given.data or cfg.data, parse_size(cfg.size), "val", seed=cfg.seed, strict=False
    )
    segmenter = _segmenter(given.segmenter, checkpoint, cfg, len(classes))
    material = gather(
        generator,
        classes,
        data,
        names=given.images,
        chosen=given.classes,
        segmenter=None if segmenter is None else segmenter.to(device),
        hed=build_hed(hed_weights) if hed_weights else None,
        others=others,
        seed=given.seed,
    )
    written, left_out = draw_figures(material, given.out, given.figure)
    for sentence in left_out:
        print(sentence)
    print(f"images: {', '.join(made.name for made in material.pairs)}")
    print(f"{len(written) // 2} figures in {given.out}, each as PDF and PNG")
    return 0


def _others(given: Sequence[str]) -> dict[str, Path]:
    others: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in others:
            raise ConfigError(f"--other takes NAME=DIR, each name once, not {text!r}")
        others[name] = Path(folder)
    return others


def _segmenter(
    given: str | None, checkpoint: Path, cfg: TrainConfig, num_classes: int
) -> LabelGenerator | None:
    """The segmenter asked for, else the one that the run was trained with, else none."""
    from ecgan.models.segmenter import LabelGenerator
    from ecgan.training.build import load_label_generator

    if given:
        return LabelGenerator.from_pretrained(given, num_classes)
    own = checkpoint.parent.parent / "segmenter"
    if (own / "config.json").is_file():
        return LabelGenerator.from_pretrained(str(own), num_classes)
    if cfg.segmenter.source != "auto":
        return load_label_generator(cfg.segmenter.source, cfg.segmenter, num_classes)
    return None
