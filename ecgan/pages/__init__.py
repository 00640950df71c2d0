"""Self-contained HTML pages: the report of a run and the preference study of two systems."""

from ecgan.pages.report import write_report
from ecgan.pages.score import Score, score_answers
from ecgan.pages.study import StudyFiles, write_study

__all__ = ["Score", "StudyFiles", "score_answers", "write_report", "write_study"]
