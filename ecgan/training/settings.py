"""Configuration from its layers: defaults < recipe < file < command line.

A layer that names a preset switches that row's components first and then applies its own keys, so
the preset on the command line also holds against a complete ``config.yaml``.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from ecgan.config import Preset, TrainConfig, preset_values
from ecgan.errors import ConfigError

# The help of an argument is the docstring under its field.
set_parsing_settings(docstring_parse_attribute_docstrings=True)

Config = TypeVar("Config")
Layer = dict[str, object]
"""Dotted configuration keys and their values."""


def recipe_names() -> list[str]:
    """Names that ``--recipe`` takes."""
    folder = resources.files("ecgan") / "recipes"
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_recipe(name: str) -> Layer:
    """The layer of ``ecgan/recipes/<name>.yaml``.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in recipe_names():
        raise ConfigError(f"there is no recipe {name!r}; recipes are {', '.join(recipe_names())}")
    text = (resources.files("ecgan") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    return _parse(text, f"recipe {name}", TrainConfig)


def read_file(path: Path, cls: type = TrainConfig) -> Layer:
    """The layer of a YAML file.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or has an unknown key or a value of
            the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"configuration file {path} cannot be read: {reason}") from None
    return _parse(text, f"configuration file {path}", cls)


def with_preset(layer: Layer) -> Layer:
    """The layer with the components that its preset switches, its own keys last."""
    if "preset" not in layer:
        return layer
    return {**preset_values(cast(Preset, layer["preset"])), **layer}


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Types and defaults as jsonargparse prints them, line breaks as we wrote them."""


def make_parser(cls: type, prog: str, **options: Any) -> ArgumentParser:
    """A parser whose arguments are the fields of a configuration class; it raises, never exits."""
    parser = ArgumentParser(
        prog=prog,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
        **options,
    )
    parser.add_class_arguments(cls, None)
    return parser


def instantiate(parser: ArgumentParser, cls: type[Config], namespace: Any) -> Config:
    """The configuration object of a parsed namespace."""
    values = parser.instantiate(namespace)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return cls(**{field.name: values[field.name] for field in fields})


def compose(layers: Iterable[Layer], cls: type[Config]) -> Config:
    """One configuration from layers, the last one the strongest.

    Raises:
        ConfigError: an unknown key or a value of the wrong type.
    """
    merged = {key: value for layer in layers for key, value in with_preset(layer).items()}
    check_keys(merged, cls, "the configuration")
    parser = make_parser(cls, "ecgan")
    try:
        return instantiate(parser, cls, parser.parse_object(_nest(merged)))
    except ArgumentError as error:
        raise ConfigError(one_line(error)) from None


def load_config(path: Path) -> TrainConfig:
    """Reads a complete or partial configuration file into a TrainConfig.

    Raises:
        ConfigError: see :func:`read_file`.
    """
    return compose([read_file(path)], TrainConfig)


def to_yaml(config: object) -> str:
    """The whole configuration as YAML that ``--config`` reads back."""
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def check_keys(keys: Iterable[str], cls: type, source: str) -> None:
    """Names the first key that no configuration field has.

    Raises:
        ConfigError: an unknown key, with the nearest known ones.
    """
    known = list(_known_keys(cls))
    for key in keys:
        if key not in known:
            # A key of the right name in the wrong group is the likelier mistake.
            leaf = key.rsplit(".", 1)[-1]
            near = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
            near = near or difflib.get_close_matches(key, known, n=3, cutoff=0.6)
            hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
            raise ConfigError(f"unknown configuration key {key!r} in {source}{hint}")


def group_names(cls: type) -> set[str]:
    """Dotted names of the groups of keys, such as ``dataset`` and ``dataset.edges``."""
    names = [key.split(".")[:-1] for key in _known_keys(cls)]
    return {".".join(name[:end]) for name in names for end in range(1, len(name) + 1)}


def one_line(error: object) -> str:
    """A parser's message on one line."""
    text = re.sub(r"<class '(\w+)'>", r"\1", str(error)).replace("typing.Literal", "one of ")
    text = re.sub(r"Expected an? (.+?)\. Got value: ", r"expected \1, got ", text, flags=re.DOTALL)
    return " ".join(text.replace("Parser key ", "key ").split())


def _parse(text: str, source: str, cls: type) -> Layer:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            # Nested aliases of a few hundred bytes can stand for billions of values.
            raise ConfigError(f"{source} uses YAML aliases (*name): expected plain values")
        values = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{source} is no valid YAML: {one_line(error)}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source} must hold keys and values, such as 'size: 256x512'")
    layer = dict(_flatten(values, cls))
    check_keys(layer, cls, source)
    try:
        # Here, where the source can be named: argparse does not check what is set as a default.
        make_parser(cls, "ecgan").parse_object(_nest(layer))
    except ArgumentError as error:
        raise ConfigError(f"{source}: {one_line(error)}") from None
    return layer


def _flatten(values: Mapping[str, Any], cls: type, prefix: str = "") -> Iterable[tuple[str, Any]]:
    groups = group_names(cls)
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flatten(value, cls, f"{key}.")
        elif key in groups:
            raise ConfigError(f"configuration key {key!r} is a group of keys, not {value!r}")
        else:
            yield key, value


def _nest(layer: Layer) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in layer.items():
        *groups, leaf = key.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = value
    return nested


def _known_keys(cls: type, prefix: str = "") -> Sequence[str]:
    keys: list[str] = []
    for field in dataclasses.fields(cls):
        factory = field.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            keys += _known_keys(factory, f"{prefix}{field.name}.")
        else:
            keys.append(f"{prefix}{field.name}")
    return keys
