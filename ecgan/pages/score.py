"""Scores of a preference study: percentages with confidence intervals, as in Table 1."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, stdev
from typing import Any

from ecgan.errors import DataError
from ecgan.pages.study import FORMAT


@dataclass
class Share:
    """How often the first system was preferred."""

    wins: int
    """Answers for the first system."""
    answers: int
    """All answers."""
    low: float
    """Lower end of Wilson's interval, 0..1."""
    high: float
    """Upper end."""

    @property
    def share(self) -> float:
        """Share of the first system, 0..1."""
        return self.wins / self.answers


@dataclass
class Score:
    """The outcome of a study."""

    names: tuple[str, str]
    """The two systems; shares are the first one's."""
    pooled: Share
    """All answers of all raters together, taken as independent of each other."""
    raters: dict[str, Share]
    """By the answer file's name."""
    spread: float | None
    """Standard deviation of the raters' shares; None with one rater."""
    left: Share
    """How often the left image was preferred, whatever it was: far from a half means that raters
    did not look."""
    confidence: float
    """Of the intervals."""


def wilson(wins: int, answers: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, 1927), without continuity correction.

    Args:
        wins: successes, 0..answers.
        answers: trials, at least 1.
        confidence: coverage.

    Returns:
        Lower and upper end, within 0..1.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = wins / answers
    scale = 1 + z * z / answers
    centre = (p + z * z / (2 * answers)) / scale
    half = z * math.sqrt(p * (1 - p) / answers + z * z / (4 * answers * answers)) / scale
    # At the ends the two cancel but for rounding.
    low = 0.0 if wins == 0 else centre - half
    return low, 1.0 if wins == answers else centre + half


def score_answers(
    files: Sequence[Path], key: Path | None = None, confidence: float = 0.95
) -> Score:
    """Scores the answer files that raters of one study sent back.

    Args:
        files: answer files.
        key: the study's key; None looks for ``*.key.json`` beside the answers, one folder up and
            in the current folder.
        confidence: of the intervals.

    Raises:
        DataError: a file that is no answer file, holds no or impossible answers, belongs to another
            study, or comes from the same rater as another; or no key.
    """
    documents = [_read(path, "ecgan study answers", "answer file") for path in files]
    study = documents[0].get("study")
    for path, document in zip(files, documents, strict=True):
        if document.get("study") != study:
            raise DataError(f"{path} belongs to another study than {files[0]}: score them apart")
    seen: dict[object, Path] = {}
    for path, document in zip(files, documents, strict=True):
        rater = document.get("rater")
        if rater in seen:
            raise DataError(
                f"{path} and {seen[rater]} come from the same rater: keep the one with more answers"
            )
        seen[rater] = path
    solution = _find_key(files, study) if key is None else _read(key, "ecgan study key", "key")
    if solution.get("study") != study:
        raise DataError(f"key {key} belongs to another study than {files[0]}")
    try:
        sides = [question["first_is"] for question in solution["questions"]]
        first, second = (str(name) for name in solution["names"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"key of study {study} is incomplete") from None

    tallies = [_tally(p, d, sides) for p, d in zip(files, documents, strict=True)]
    shares = [_share(wins, answers, confidence) for wins, _, answers in tallies]
    total = sum(answers for _, _, answers in tallies)
    return Score(
        names=(first, second),
        pooled=_share(sum(wins for wins, _, _ in tallies), total, confidence),
        raters={str(path): share for path, share in zip(files, shares, strict=True)},
        spread=stdev(share.share for share in shares) if len(shares) > 1 else None,
        left=_share(sum(left for _, left, _ in tallies), total, confidence),
        confidence=confidence,
    )


def table_row(score: Score) -> str:
    """The row of Table 1: percentage and half the width of the interval."""
    pooled = score.pooled
    half = (pooled.high - pooled.low) / 2
    return f"{score.names[0]} vs. {score.names[1]}: {pooled.share:.1%} ± {half:.1%}".replace(
        "%", ""
    )


def _share(wins: int, answers: int, confidence: float) -> Share:
    return Share(wins, answers, *wilson(wins, answers, confidence))


def _tally(path: Path, document: dict[str, Any], sides: Sequence[str]) -> tuple[int, int, int]:
    """Answers for the first system, for the left side, and all of one file."""
    answers = document.get("answers")
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{path} holds no answers")
    questions: set[int] = set()
    wins = left = 0
    for answer in answers:
        question = answer.get("question") if isinstance(answer, dict) else None
        choice = answer.get("choice") if isinstance(answer, dict) else None
        if type(question) is not int or not 0 <= question < len(sides):
            raise DataError(f"{path} answers question {question!r}: there are {len(sides)}")
        if question in questions:
            raise DataError(f"{path} answers question {question} twice")
        if choice not in ("left", "right"):
            raise DataError(f"{path} answers {choice!r}: expected left or right")
        questions.add(question)
        wins += choice == sides[question]
        left += choice == "left"
    return wins, left, len(answers)


def _read(path: Path, kind: str, name: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise DataError(f"{name} {path} cannot be read: {reason}") from None
    if not isinstance(document, dict) or document.get("kind") != kind:
        raise DataError(f"{path} is no {name} of `ecgan study`")
    if document.get("format") != FORMAT:
        raise DataError(f"{path} has format {document.get('format')!r}: expected {FORMAT}")
    return document


def _find_key(files: Sequence[Path], study: object) -> dict[str, Any]:
    folders = [folder for path in files for folder in (path.parent, path.parent / "..")]
    for folder in dict.fromkeys([*folders, Path()]):
        for path in sorted(folder.glob("*.key.json")):
            try:
                document = _read(path, "ecgan study key", "key")
            except DataError:
                continue
            if document.get("study") == study:
                return document
    raise DataError(
        f"no key of study {study} beside the answers: give the file NAME.key.json by --key"
    )
