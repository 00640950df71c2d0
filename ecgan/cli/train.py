"""``ecgan train``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ecgan.cli.arguments import CheckProgress, normalize
from ecgan.config import Preset, TrainConfig
from ecgan.errors import CheckpointError, ConfigError
from ecgan.training.settings import (
    Layer,
    check_keys,
    group_names,
    instantiate,
    make_parser,
    read_file,
    read_recipe,
    recipe_names,
    to_yaml,
    with_preset,
)

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
    given = _peek(arguments)
    parser = make_parser(
        TrainConfig,
        "ecgan train",
        usage="ecgan train [--recipe NAME] [--config FILE] [--data DIR] [--size HxW] "
        "[--preset B6] [--KEY VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    source = parser.add_argument_group("Where settings come from")
    source.add_argument(
        "--recipe",
        type=str,
        help=f"settings for a data set: {', '.join(recipe_names())}; quickstart where neither "
        "--recipe nor --config is given",
    )
    source.add_argument("--config", type=str, help="YAML file with any of the keys below")
    source.add_argument("--resume", type=str, help="run folder to go on with")
    source.add_argument(
        "--show_config",
        action="store_true",
        help="print the complete settings and stop (a file for --config)",
    )
    for layer in _layers(given):
        parser.set_defaults(with_preset(layer))
    check_keys(_keys(arguments), TrainConfig, "the command line")
    namespace = parser.parse_args(arguments)
    cfg = instantiate(parser, TrainConfig, namespace)
    if namespace.show_config:
        print(to_yaml(cfg), end="")
        return 0
    if cfg.data != "scenes" and Path(cfg.data).is_dir():
        cfg = dataclasses.replace(cfg, data=str(Path(cfg.data).resolve()))

    from ecgan.training import train

    resume = None if given.resume is None else Path(given.resume)
    folder = train(cfg, resume, CheckProgress())
    print(f"run folder: {folder}")
    return 0


def _peek(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments that decide about the defaults of all others."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    for name in ("--recipe", "--config", "--resume"):
        parser.add_argument(name)
    parser.add_argument("--preset", choices=get_args(Preset))
    return parser.parse_known_args(arguments)[0]


def _layers(given: argparse.Namespace) -> list[Layer]:
    if given.resume is not None:
        if given.recipe or given.config:
            raise ConfigError("--resume takes the run's own settings: leave out --recipe, --config")
        layers = [_resumed(Path(given.resume))]
    else:
        layers = []
        if given.recipe or not given.config:
            layers.append(read_recipe(given.recipe or "quickstart"))
        if given.config:
            layers.append(read_file(Path(given.config)))
    if given.preset:
        layers.append({"preset": given.preset})
    return layers


def _resumed(path: Path) -> Layer:
    for folder in (path, path.parent.parent):
        if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
            return read_file(folder / "config.yaml")
    raise CheckpointError(f"{path} is no run folder: it has no config.yaml and no checkpoints")


def _keys(arguments: Sequence[str]) -> list[str]:
    """Configuration keys among the arguments."""
    own = {"recipe", "config", "resume", "show_config", "help"}
    names = [a[2:].partition("=")[0] for a in arguments if a.startswith("--")]
    return [name for name in names if name not in own | group_names(TrainConfig)]
