"""What the commands' parsers share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from ecgan.errors import ConfigError

_SHORT = {"--steps": "--optim.steps", "--lr": "--optim.lr"}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raises a ConfigError with argparse's message."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def normalize(arguments: Sequence[str], short: bool = False) -> list[str]:
    """Options with dashes as the keys are spelled, with underscores.

    Args:
        arguments: the command line.
        short: also replace --steps and --lr by the keys they stand for.
    """
    result = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = "--" + name[2:].replace("-", "_")
            argument = (_SHORT.get(name, name) if short else name) + equals + value
        result.append(argument)
    return result


class CheckProgress:
    """Progress of the data check: a bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("checking pairs", total=None)

    def __call__(self, done: int, total: int) -> None:
        """Shows that ``done`` of ``total`` pairs have been checked."""
        if not self._progress.console.is_terminal:
            return
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total)
        if done == total:
            self._progress.stop()
