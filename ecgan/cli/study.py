"""``ecgan study``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecgan.cli.arguments import Parser
from ecgan.errors import ConfigError

_DESCRIPTION = """Makes a preference study as in the paper's Table 1: one self-contained HTML page
of questions which of two systems' images looks better, the sides drawn at random. Raters open it,
answer and send back the file that they download. Which side is which stands in NAME.key.json
beside the page, not in the page: keep it from the raters.
"""
_EXAMPLES = """examples:
  ecgan study results/ours results/oasis --names Ours OASIS --labels labels --out study.html
  ecgan study --score answers-*.json --key study.key.json
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan study --help``."""
    from argparse import RawDescriptionHelpFormatter

    parser = Parser(
        prog="ecgan study",
        usage="ecgan study A B --out FILE.html [--questions 400] [--names A B] [--labels DIR] "
        "[--seed 1]\n       ecgan study --score FILE [FILE ...] [--key FILE]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders", metavar="A B", nargs="*", type=Path, help="results of the two systems"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="the page")
    parser.add_argument("--questions", type=int, help="most questions (default: 400)")
    parser.add_argument("--names", nargs=2, metavar=("A", "B"), help="default: the folders' names")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="label maps to show above")
    parser.add_argument("--seed", type=int, help="of questions and sides (default: 1)")
    parser.add_argument("--score", type=Path, nargs="+", metavar="FILE", help="answers to score")
    parser.add_argument("--key", type=Path, metavar="FILE", help="default: looked for beside them")
    given = parser.parse_args(arguments)
    makes = (given.out, given.questions, given.names, given.labels, given.seed)

    if given.score:
        if given.folders or any(value is not None for value in makes):
            raise ConfigError("--score takes answer files and --key, nothing else")
        return _score(given.score, given.key)
    if len(given.folders) != 2 or given.out is None or given.key is not None:
        raise ConfigError(
            "ecgan study takes two result folders and --out, or --score and answer files; see "
            "ecgan study --help"
        )
    from ecgan.pages import write_study

    first, second = given.folders
    made = write_study(
        first,
        second,
        given.out,
        questions=400 if given.questions is None else given.questions,
        names=given.names,
        labels=given.labels,
        seed=1 if given.seed is None else given.seed,
    )
    if made.unpaired:
        print(f"{made.unpaired} images that only one folder has are left out")
    print(f"study: {made.page} ({made.questions} questions)")
    print(f"key, not for the raters: {made.key}")
    return 0


def _score(files: list[Path], key: Path | None) -> int:
    from rich.console import Console
    from rich.table import Table

    from ecgan.pages import score_answers
    from ecgan.pages.score import table_row

    score = score_answers(files, key)
    table = Table(title=f"Preferred {score.names[0]} to {score.names[1]}", title_justify="left")
    for column in ("rater", "answers", "%", f"{score.confidence:.0%} interval"):
        table.add_column(column, justify="left" if column == "rater" else "right")
    shares = {**score.raters, "all together": score.pooled}
    for name, share in shares.items():
        interval = f"{100 * share.low:.1f} to {100 * share.high:.1f}"
        table.add_row(name, str(share.answers), f"{100 * share.share:.1f}", interval)
    console = Console(markup=False, highlight=False)
    console.print(table)
    if score.spread is not None:
        console.print(f"standard deviation between raters: {100 * score.spread:.1f}")
    console.print(f"left image chosen: {100 * score.left.share:.1f} %")
    console.print(table_row(score))
    return 0
