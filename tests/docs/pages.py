"""The code blocks of README.md and docs/, and how a test carries them out.

Blocks of a page run in their order, in a folder and a Python namespace of the page's own. A block
below `<!-- not run: why -->` is not run: its Python is compiled, and of its `ecgan` lines the
arguments are parsed.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import pytest
import yaml

from ecgan.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()
]
BLOCK = re.compile(
    r"(?P<mark><!-- not run: [^>]+ -->\n+)?^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
TEXT = ("", "text")  # what is no code: layouts of folders, output

# What the test adds to a command, so that it takes seconds. An option's last value counts.
SMALL = """
--size 32x64 --batch_size 2 --log_every 1 --sample_every 2 --save_every 2 --dataset.workers 0
--dataset.scenes 8 --dataset.format auto --dataset.num_classes 0 --dataset.void_channel false
--dataset.instance_edges false --dataset.resize stretch --device cpu --precision no
--model.ngf 8 --model.ndf 8 --model.num_upsamples 3 --model.spade_hidden 8
--model.projection_dim 16 --model.spectral none --loss.contrastive.budget 128
--loss.perceptual_network.network efficientnet_lite0 --segmenter.source auto --segmenter.steps 2
--segmenter.batch_size 2 --optim.steps 2
"""
ADDED = {
    "train": SMALL,
    "plan": f"{SMALL} --preset B1 --loss.perceptual 0 --budget=",
    "train-segmenter": "--size 32x64 --steps 2 --batch_size 2 --dataset.workers 0 --device cpu",
    "evaluate": "--limit 2 --kid_subsets 2 --kid_subset_size 2 --workers 0 --diversity.samples 2",
    "figures": "--figure attention",
}
# Never run: hours, rows of measurements that would be written, a server.
MARKED = ("ablate", "bench", "demo")
# Run on one page; on the others their arguments are parsed.
HEAVY = ("train", "train-segmenter", "plan", "evaluate")
HEAVY_PAGE = "docs/tutorial.md"


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    """Of its first line of code."""
    language: str
    code: str
    run: bool

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page but directives of the site and plain text."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        language = match["language"].strip()
        if language.startswith("{") or language in TEXT:
            continue
        line = text.count("\n", 0, match.start("code")) + 1
        yield Block(page, line, language, match["code"], not match["mark"])


def commands(block: Block) -> list[list[str]]:
    """The command lines of a shell block, without comments."""
    joined = block.code.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carries out a page in the current folder."""
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            # Empty lines before it, so that a traceback names the page's own line.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            if block.run:
                exec(code, namespace)
        elif block.language == "sh":
            for words in commands(block):
                run_command(block, words, monkeypatch)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "yaml":
            yaml.safe_load(block.code)
            if name := re.match(r"# (\S+\.yaml)\n", block.code):
                Path(name[1]).write_text(block.code, encoding="utf-8")
        else:
            pytest.fail(f"{block.place}: nothing is known of blocks of {block.language!r}")


def run_command(block: Block, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a line of ``ecgan``; parses it where its block is marked or it is heavy."""
    if not block.run:
        if words[0] == "torchrun":
            words = words[words.index("ecgan") :]
        if words[0] == "ecgan":
            parse(block, words[1:], monkeypatch)
        return
    if words[0] != "ecgan" or words[1] in MARKED:
        command = " ".join(words[:2])
        pytest.fail(f"{block.place}: {command} cannot be run: put `<!-- not run: why -->` above")
    if words[1] in HEAVY and str(block.page.relative_to(ROOT)) != HEAVY_PAGE:
        parse(block, words[1:], monkeypatch)
        return
    arguments = [*words[1:], *ADDED.get(words[1], "").split()]
    assert main(arguments) == 0, f"{block.place}: {shlex.join(words)}"


class _Parsed(BaseException):
    """Ends a command whose arguments have been parsed."""


def parse(block: Block, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses the arguments of a command as the command does, and stops it there."""

    def stop_after(parse_args):  # type: ignore[no-untyped-def]
        def parse_then_stop(self, args=None, *rest, **options):  # type: ignore[no-untyped-def]
            parsed = parse_args(self, args, *rest, **options)
            if self.prog.startswith("ecgan "):
                raise _Parsed
            return parsed

        return parse_then_stop

    with monkeypatch.context() as patch:
        for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
            patch.setattr(parser, "parse_args", stop_after(parser.parse_args))
        try:
            status = main(arguments)
        except _Parsed:
            return
    pytest.fail(f"{block.place}: ecgan {shlex.join(arguments)} ends with status {status}")
