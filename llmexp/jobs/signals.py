"""SIGTERM and Ctrl-C, turned into a status of the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

from llmexp.jobs.outcome import Stopped

REASONS = {
    int(signal.SIGINT): ("interrupted", "stopped by Ctrl-C"),
    int(signal.SIGTERM): ("preempted", "received SIGTERM"),
}
# A terminal sends Ctrl-C to every process, and so may a parent: within this time it is one wish.
ONE_WISH_SECONDS = 1.0


class Signals:
    """While entered, a signal stops the run: at once, or where `patient` after the step.

    A second signal always stops at once.
    """

    def __init__(self) -> None:
        self.asked = 0
        """The number of the signal that came, or 0."""
        self.patient = False
        self.others: list[subprocess.Popen[Any]] = []
        """Processes to tell when this one stops at once."""
        self._at = 0.0
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.getsignal(number) for number in REASONS}
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def take(self) -> None:
        """Handle the signals here, also where Lightning has put itself in between."""
        for number in REASONS:
            signal.signal(number, self._handle)

    def stop(self, number: int) -> NoReturn:
        """End the run with the status that belongs to the signal."""
        raise Stopped(*REASONS[number])

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A forked data worker inherits this handler, and has nothing to save.
        if os.getpid() != self._owner:
            os._exit(128 + number)
        now = time.monotonic()
        first, again = self.asked == 0, now - self._at < ONE_WISH_SECONDS
        if not first and again:
            return
        self.asked, self._at = number, now
        if first and self.patient:
            print("finishing the step, then saving; once more to stop at once", file=sys.stderr)
            return
        for other in self.others:
            other.send_signal(number)
        self.stop(number)
