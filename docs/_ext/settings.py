"""The directive ``settings``: every field of a configuration class, from its source.

The name is that of the command line, the meaning the docstring under the field. Beside a default
stand the values that recipes and presets put in its place.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from ecgan import config
from ecgan.config import Preset, preset_values
from ecgan.training.settings import Layer, read_recipe, recipe_names


@dataclass(frozen=True)
class Setting:
    """One field."""

    key: str
    type: str
    default: object
    meaning: str


@dataclass(frozen=True)
class Group:
    """The fields of one class, and the dotted name that they begin with."""

    key: str
    meaning: str
    settings: list[Setting]


def groups(cls: type, key: str = "") -> Iterator[Group]:
    """A configuration class and those within it, in the order of the source.

    Raises:
        ValueError: a field has no docstring.
    """
    meanings = ModuleAnalyzer.for_module(cls.__module__).find_attr_docs()
    hints = typing.get_type_hints(cls)
    own: list[Setting] = []
    inner: list[Iterator[Group]] = []
    for field in dataclasses.fields(cls):
        name = f"{key}{field.name}"
        meaning = " ".join(meanings.get((cls.__name__, field.name), [])).strip()
        if not meaning:
            raise ValueError(f"{cls.__name__}.{field.name} has no docstring")
        if dataclasses.is_dataclass(hints[field.name]):
            inner.append(groups(hints[field.name], f"{name}."))
        else:
            own.append(Setting(name, _type(hints[field.name]), field.default, meaning))
    yield Group(key.rstrip("."), " ".join((cls.__doc__ or "").split()), own)
    for group in inner:
        yield from group


def _type(hint: Any) -> str:
    if get_origin(hint) is typing.Literal:
        return " | ".join(map(str, get_args(hint)))
    return {bool: "true | false", str: "text", int: "integer", float: "number"}[hint]


@functools.cache
def _layers() -> dict[str, Layer]:
    layers = {name: read_recipe(name) for name in recipe_names()}
    return layers | {preset: dict(preset_values(preset)) for preset in get_args(Preset)}


def changes(setting: Setting) -> dict[str, object]:
    """Values that recipes and presets put in the place of a training setting's default."""
    values = {name: layer[setting.key] for name, layer in _layers().items() if setting.key in layer}
    return {name: value for name, value in values.items() if value != setting.default}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value == "" else str(value)


class Settings(SphinxDirective):
    """``{settings} CLASS`` of ecgan.config."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A section for each group, a definition for each field."""
        name = self.arguments[0]
        self.env.note_dependency(config.__file__)
        result: list[nodes.Node] = []
        for group in groups(getattr(config, name)):
            section = nodes.section(ids=[nodes.make_id(f"{name} {group.key}")])
            title = nodes.title()
            title += nodes.literal(text=f"--{group.key}.") if group.key else nodes.Text("General")
            section += title
            section += self._text(group.meaning)
            section += nodes.definition_list(
                "", *(self._item(name, setting) for setting in group.settings), classes=["settings"]
            )
            result.append(section)
        return result

    def _item(self, name: str, setting: Setting) -> nodes.definition_list_item:
        term = nodes.term("", "", ids=[nodes.make_id(f"{name} {setting.key}")])
        term += nodes.literal(text=f"--{setting.key}")
        term += nodes.inline(text=f" {setting.type}", classes=["type"])
        values = nodes.paragraph("", "default ", classes=["values"])
        values += nodes.literal(text=_shown(setting.default))
        for place, value in changes(setting).items() if name == "TrainConfig" else ():
            values += nodes.Text(f" · {place} ")
            values += nodes.literal(text=_shown(value))
        return nodes.definition_list_item(
            "", term, nodes.definition("", *self._text(setting.meaning), values)
        )

    def _text(self, text: str) -> list[nodes.Node]:
        holder = nodes.Element()
        self.state.nested_parse(StringList([text.replace("``", "`")]), 0, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
