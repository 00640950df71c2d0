"""The settings of a training run on the command line, for every command that takes them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from jsonargparse import ArgumentParser

from ecgan.config import Preset, TrainConfig
from ecgan.errors import CheckpointError, ConfigError
from ecgan.training.checkpoint_folder import is_run
from ecgan.training.settings import (
    Layer,
    check_keys,
    group_names,
    instantiate,
    make_parser,
    read_file,
    read_recipe,
    recipe_names,
    with_preset,
)


def settings_parser(prog: str, arguments: Sequence[str], **options: Any) -> ArgumentParser:
    """A parser of all settings, whose defaults are those of the recipe, file or run given.

    Args:
        prog: name of the command.
        arguments: the command line, normalised.
        options: further options of the parser.

    Raises:
        ECGANError: a recipe, file or run that cannot be read.
    """
    parser = make_parser(TrainConfig, prog, **options)
    source = parser.add_argument_group("Where settings come from")
    source.add_argument(
        "--recipe",
        type=str,
        help=f"settings for a data set: {', '.join(recipe_names())}; quickstart where neither "
        "--recipe nor --config is given",
    )
    source.add_argument("--config", type=str, help="YAML file with any of the keys below")
    source.add_argument(
        "--resume",
        type=str,
        help="run folder whose settings to take and whose training to go on with; auto: that of "
        "--out if it is there, else a new run",
    )
    for layer in _layers(peek(arguments)):
        parser.set_defaults(with_preset(layer))
    return parser


def parse_settings(
    parser: ArgumentParser, arguments: Sequence[str], own: set[str]
) -> tuple[TrainConfig, argparse.Namespace]:
    """Settings, and everything that was parsed.

    Args:
        parser: of :func:`settings_parser`.
        arguments: the command line, normalised.
        own: names of the command's own arguments.

    Raises:
        ConfigError: an unknown key.
    """
    known = own | {"recipe", "config", "resume", "help"} | group_names(TrainConfig)
    names = [a[2:].partition("=")[0] for a in arguments if a.startswith("--")]
    check_keys([name for name in names if name not in known], TrainConfig, "the command line")
    namespace = parser.parse_args(arguments)
    return instantiate(parser, TrainConfig, namespace), namespace


def peek(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments that decide about the defaults of all others.

    ``--resume auto``, which torchrun's restarts imply, becomes the folder of ``--out`` if a run is
    there, and None if not; ``continued`` tells it from a run that was named.

    Raises:
        ConfigError: ``auto`` without ``--out``.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    for name in ("--recipe", "--config", "--resume", "--out"):
        parser.add_argument(name)
    parser.add_argument("--preset", choices=get_args(Preset))
    given = parser.parse_known_args(arguments)[0]
    given.continued = given.resume == "auto" or (given.resume is None and _restarted(given.out))
    if given.continued:
        if not given.out:
            raise ConfigError("--resume auto goes on with the run of --out: give --out")
        given.resume = given.out if is_run(Path(given.out)) else None
    return given


def _restarted(out: str | None) -> bool:
    return bool(out) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _layers(given: argparse.Namespace) -> list[Layer]:
    if given.resume is not None:
        if (given.recipe or given.config) and not given.continued:
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
        if is_run(folder):
            return read_file(folder / "config.yaml")
    raise CheckpointError(f"{path} is no run folder: it has no config.yaml and no checkpoints")
