"""Requests to stop: SIGTERM and SIGUSR1 of a scheduler, Ctrl-C of a user."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from ecgan.errors import Stopped


class StopRequests:
    """Listens for requests to stop while it is entered.

    Where there is nothing to save yet (``idle``) a request stops at once; later it is left to the
    training loop, which looks at ``name`` after each step. A second Ctrl-C interrupts at once.
    """

    _SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT")

    def __init__(self) -> None:
        self.name = ""
        """Signal that came, or empty."""
        self.idle = True
        """Whether nothing is lost by stopping at once."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequests:
        # Python allows handlers in the main thread only; elsewhere the caller's stay in force.
        if threading.current_thread() is threading.main_thread():
            for name in self._SIGNALS:
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        again = self.name == name == "SIGINT"
        self.name = name
        if again:
            raise KeyboardInterrupt
        if self.idle:
            raise Stopped(name, f"stopped by {name} before the first step; nothing to save")
