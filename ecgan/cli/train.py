"""``ecgan train``."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ecgan.cli.arguments import CheckProgress, normalize
from ecgan.cli.run_settings import parse_settings, peek, settings_parser
from ecgan.training.settings import to_yaml

_DESCRIPTION = """Trains ECGAN on pairs of label map and photo and writes a run folder.

Settings come, the later the stronger, from the defaults, the recipe, the configuration file and
the command line. A preset switches the components of its row of the paper's Table 3 where it is
given. Every key below can stand in a file: --optim.lr 1e-4 is `optim: {lr: 1e-4}`. --steps and --lr
are short for --optim.steps and --optim.lr.
"""
_EXAMPLES = """examples:
  ecgan train                                       small networks on built-in street scenes
  ecgan train --data DIR --size 96x128              the same on your pairs
  ecgan train --recipe cityscapes --data DIR        the paper's setting
  ecgan train --resume runs/scenes-B6-20260101-120000
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan train --help``."""
    arguments = normalize(arguments, short=True)
    given = peek(arguments)
    parser = settings_parser(
        "ecgan train",
        arguments,
        usage="ecgan train [--recipe NAME] [--config FILE] [--data DIR] [--size HxW] "
        "[--preset B6] [--KEY VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--show_config",
        action="store_true",
        help="print the complete settings and stop (a file for --config)",
    )
    cfg, namespace = parse_settings(parser, arguments, own={"show_config"})
    if namespace.show_config:
        print(to_yaml(cfg), end="")
        return 0
    if cfg.data != "scenes" and Path(cfg.data).is_dir():
        cfg = dataclasses.replace(cfg, data=str(Path(cfg.data).resolve()))

    from ecgan.training import train

    resume = None if given.resume is None else Path(given.resume)
    folder = train(cfg, resume, CheckProgress())
    if os.environ.get("RANK", "0") == "0":  # one page, however many processes trained
        print(f"run folder: {folder}")
        _report(folder)
    return 0


def _report(folder: Path) -> None:
    """Makes the run's page; whatever goes wrong costs one line, never the training."""
    try:
        from ecgan.pages import write_report

        print(f"report: {write_report(folder)}")
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"ecgan: warning: no report of {folder}: {reason}", file=sys.stderr)
