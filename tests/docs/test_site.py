"""The documentation site: it builds without a warning and loads nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import html
import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ecgan import config

DOCS = Path(__file__).parents[2] / "docs"
ROOTS = {"TrainConfig", "EvaluateConfig", "SegmenterTrainConfig"}

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs the source tree")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; a warning fails the build."""
    for module in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(module)
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", str(DOCS)]
    done = subprocess.run([*command, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


class Loads(HTMLParser):
    """Addresses that a browser fetches to show a page; links that a reader follows are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag != "a":
            self.found += [values[name] or "" for name in ("src", "href") if name in values]


def test_nothing_is_fetched_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert any(".css" in address for address in loads.found)
        foreign = [a for a in loads.found if re.match(r"(?:\w+:)?//", a)]
        assert not foreign, f"{page.relative_to(site)}: {foreign}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import\s)\s*[\"']?(?:https?:)?//", text), style.name


def test_formulas_are_drawn_by_the_browser(site):
    page = (site / "operators/similarity_bce.html").read_text(encoding="utf-8")
    assert "<math" in page
    assert "<mfrac>" in page
    assert not [p for p in site.rglob("*.html") if re.search(r"\\(frac|sum|big)\b", p.read_text())]


def test_every_setting_is_there_with_its_meaning(site, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    settings = importlib.import_module("settings")
    roots = [getattr(config, name) for name in ROOTS]
    classes = {cls for cls in vars(config).values() if dataclasses.is_dataclass(cls)}
    assert classes == {owner for root in roots for owner in owners(root)}
    page = (site / "configuration.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    for root in roots:
        for setting in (s for group in settings.groups(root) for s in group.settings):
            assert f"--{setting.key} {setting.type}" in text
            assert setting.meaning.split("`")[0] in text
    assert "100 · coco_stuff 50" in text  # optim.epochs
    assert "true · B1 false · B2 false" in text  # model.edge_transfer


def owners(cls: type) -> list[type]:
    """A configuration class and those of its fields."""
    inner = [field.default_factory for field in dataclasses.fields(cls)]
    return [cls, *(o for i in inner if dataclasses.is_dataclass(i) for o in owners(i))]


def test_a_setting_without_meaning_is_an_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    settings = pytest.importorskip("settings")
    source = (
        "from dataclasses import dataclass\n@dataclass\nclass Bare:\n"
        '    """A class."""\n    first: int = 1\n    """It has one."""\n    second: int = 2\n'
    )
    (tmp_path / "bare_settings.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    bare = importlib.import_module("bare_settings").Bare
    with pytest.raises(ValueError, match=r"Bare\.second has no docstring"):
        list(settings.groups(bare))
