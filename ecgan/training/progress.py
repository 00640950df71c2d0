"""Progress of a run: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft


def memory_gib(device: torch.device) -> float:
    """Peak memory of the GPU's allocator, or the resident memory of this process, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


class TrainingProgress:
    """Shows steps, losses, images per second, memory and time left.

    Args:
        total: last step.
        start: steps done before.
        title: what runs.
        console: where to; standard output when None.
        quiet: show nothing (processes other than the first).
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        title: str = "training",
        console: Console | None = None,
        quiet: bool = False,
    ) -> None:
        self.console = console or Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.total = total
        self.title = title
        self._start = start
        self._began = time.perf_counter()
        self._bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeLeft(elapsed_when_finished=True),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[losses]}"),
                console=self.console,
            )
            self._task = self._bar.add_task(title, total=total, completed=start, losses="", rate="")

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def advance(self, step: int) -> None:
        """Moves the bar to ``step``."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, step: int, row: Mapping[str, float], losses: Sequence[str]) -> None:
        """Shows a row of metrics.csv at ``step``, of the losses those named."""
        text = " ".join(f"{name} {row[name]:.3f}" for name in losses)
        speed = f"{row['images_per_second']:.1f} img/s {row['memory_gib']:.2f} GiB"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, losses=text, rate=speed)
            return
        left = self.seconds / max(1, step - self._start) * (self.total - step)
        minutes, seconds = divmod(round(left), 60)
        self.say(f"{self.title} {step}/{self.total}  {speed}  {minutes}:{seconds:02d} left  {text}")

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.console.print(text, markup=False)
