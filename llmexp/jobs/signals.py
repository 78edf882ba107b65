"""SIGTERM, Ctrl-C and SLURM's warning, turned into a status of the run."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FrameType, TracebackType
from typing import Any, NoReturn

from llmexp.jobs.outcome import Stopped
from llmexp.jobs.results import EXIT_CODES

REASONS = {
    int(signal.SIGINT): ("interrupted", "stopped by Ctrl-C"),
    int(signal.SIGTERM): ("preempted", "received SIGTERM"),
    int(signal.SIGUSR1): ("preempted", "received SIGUSR1"),
}
# A terminal sends Ctrl-C to every process, and so may a parent: within this time it is one wish.
ONE_WISH_SECONDS = 1.0


class Signals:
    """While entered, a signal stops the run: at once, or where `patient` after the step.

    A second signal always stops at once.
    """

    def __init__(self, last_seconds: float = 3.0) -> None:
        self.last_seconds = last_seconds
        """What the main thread gets to end by itself at the second signal: it may be in a library
        that waits for another process."""
        self.asked = 0
        """The number of the signal that came, or 0."""
        self.patient = False
        self.others: list[subprocess.Popen[Any]] = []
        """Processes to tell when this one stops at once."""
        self.last_words: Callable[[str, str], object] = _nothing
        """Called with status and reason where the process has to be ended from outside."""
        self._at = 0.0
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}
        self._entered = 0
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1

    def __enter__(self) -> Signals:
        """Take the signals; may be nested."""
        self._entered += 1
        if self._entered == 1:
            self._before = {number: signal.getsignal(number) for number in REASONS}
            self._listen()
            for number in REASONS:
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered -= 1
        if self._entered:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        if self._pipe is not None:
            os.close(self._pipe[1])

    def release(self) -> None:
        """Handle what `hold` held back, and what comes."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REASONS)

    def stop(self, number: int) -> NoReturn:
        """End the run with the status that belongs to the signal."""
        raise Stopped(*REASONS[number], number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A forked data worker inherits this handler, and has nothing to save.
        if os.getpid() != self._owner:
            os._exit(128 + number)
        now, first = time.monotonic(), self.asked == 0
        if not first and _one_wish(self.asked, number, now - self._at):
            return
        self.asked, self._at = number, now
        if first and self.patient:
            # Not print: it may be what was interrupted, and its reader may have ended of the same.
            with suppress(OSError):
                os.write(2, b"finishing the step, then saving; once more to stop at once\n")
            return
        for other in self.others:
            other.send_signal(number)
        self.stop(number)

    def _listen(self) -> None:
        """A thread hears signals also while the main one is inside a library and handles none."""
        _workers_listen_to_nobody()
        self._pipe = read, write = os.pipe()
        os.set_blocking(write, False)
        self._wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        # A thread inherits what is blocked: `hold` would be in vain if this one took signals.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, REASONS)
        threading.Thread(target=self._hear, args=(read,), daemon=True, name="signals").start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _hear(self, read: int) -> None:
        asked, at = 0, 0.0
        while heard := os.read(read, 1):
            number = heard[0]
            if number not in REASONS:
                continue
            if not asked:
                asked, at = number, time.monotonic()
            elif not _one_wish(asked, number, time.monotonic() - at):
                time.sleep(self.last_seconds)
                self._give_up(number)
        os.close(read)

    def _give_up(self, number: int) -> None:
        """The main thread did not end at the second signal."""
        if not self._entered:
            return
        status, reason = REASONS[number]
        try:
            self.last_words(status, f"{reason}, twice")
            for other in self.others:
                other.kill()
        finally:
            os._exit(EXIT_CODES[status])


def _one_wish(asked: int, number: int, seconds: float) -> bool:
    """Whether a signal says once more what another one said so many seconds before.

    SLURM's warning and SIGTERM ask for the same, and a queue may send both.
    """
    return REASONS[asked][0] == REASONS[number][0] and seconds < ONE_WISH_SECONDS


def hold() -> None:
    """Signals wait until `Signals.release`: here, or in a process that is started from here."""
    signal.pthread_sigmask(signal.SIG_BLOCK, REASONS)


@cache
def _workers_listen_to_nobody() -> None:
    """A signal to a forked data worker would be heard in the process it was forked from."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _nothing(status: str, reason: str) -> None:
    """There is nothing to write."""
