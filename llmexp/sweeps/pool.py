"""Jobs side by side, each a process of its own: none takes another with it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from llmexp.errors import UserError
from llmexp.sweeps import orphans
from llmexp.sweeps.board import Board
from llmexp.sweeps.job import Job

POLL_SECONDS = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Process(Protocol):
    """A job on its way, on this machine or another."""

    @property
    def pid(self) -> int | None:
        """None where it is a process of another machine."""

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""

    def send_signal(self, number: int) -> None: ...


class Place(Protocol):
    """Where jobs run."""

    n_jobs: int

    def found(self, job: Job) -> Process | None:
        """The job as an earlier start of the sweep left it, where it is still on its way."""

    def start(self, job: Job, slot: int) -> Process:
        """Start the job in its folder; `slot` is below `n_jobs` and no other running job's."""


@dataclass
class Running:
    job: Job
    process: Process
    slot: int
    began: float
    pruned: str | None = None
    """Why it was stopped though nothing is wrong with it."""


class Pool:
    """Runs a stream of jobs at a place and keeps the board."""

    def __init__(self, board: Board, place: Place):
        self.board = board
        self.place = place
        self.running: list[Running] = []
        self.asked = 0
        """The signal that came, or 0; from then on no job is started."""

    def run(
        self,
        jobs: Iterator[Job],
        ended: Callable[[Job], None] = lambda job: None,
        watch: Callable[[Job], str | None] = lambda job: None,
    ) -> int:
        """Run every job; returns the signal that stopped it, or 0.

        `ended` hears of each job that will not change any more; `watch` is asked again and again
        whether a running one should stop, and why.
        """
        before = self._take()
        try:
            more = True
            while more or self.running:
                while more and not self.asked and len(self.running) < self.place.n_jobs:
                    job = next(jobs, None)
                    more = job is not None
                    if job is not None and not self._start(job):
                        ended(job)
                more = more and not self.asked
                for one in list(self.running):
                    if self._settled(one):
                        ended(one.job)
                    else:
                        self._prune(one, watch)
                if self.running:
                    time.sleep(POLL_SECONDS)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.asked:
            self.board.stop(self.asked)
        return self.asked

    def _start(self, job: Job) -> bool:
        """Whether the job runs now: not if it is complete, cannot start, or a signal came first."""
        entry = job.entry
        if job.complete:
            job.learn()
            self._say(job, "complete already")
            self.board.put(entry)
            return False
        slot = min(set(range(self.place.n_jobs)) - {one.slot for one in self.running})
        try:
            found = self.place.found(job)
            process = found or self._made(job, slot)
        except (UserError, OSError) as error:
            entry.status, entry.reason = "failed", str(error)
            self._say(job, f"failed: {error}")
            self.board.put(entry)
            return False
        if process is None:
            return False
        took = time.time() - entry.started if found and entry.started else 0.0
        self.running.append(Running(job, process, slot, time.monotonic() - took))
        if self.asked:
            # It came while the job was starting. Twice within a second is one wish to a run.
            process.send_signal(self.asked)
        entry.status, entry.reason, entry.pid = "running", None, process.pid
        entry.started, entry.seconds = time.time() - took, None
        entry.starts = max(1, entry.starts) if found else entry.starts + 1
        again = "started" if entry.starts == 1 else f"started again ({entry.starts})"
        self._say(job, "still on its way" if found else again)
        self.board.put(entry)
        return True

    def _made(self, job: Job, slot: int) -> Process | None:
        """Its process; None where a signal came before there was one."""
        orphans.wait_for(job.entry.pid, job.folder, lambda: self.asked > 0)
        if not self.asked:
            job.prepare()
        return None if self.asked else self.place.start(job, slot)

    def _settled(self, one: Running) -> bool:
        """Whether the job has ended; how is then on the board."""
        code = one.process.poll()
        if code is None:
            return False
        self.running.remove(one)
        one.job.end(code, one.pruned)
        entry = one.job.entry
        entry.seconds = round(time.monotonic() - one.began, 3)
        why = f": {entry.reason}" if entry.reason else ""
        self._say(one.job, f"{entry.status}{why} ({entry.seconds:.0f} s)")
        self.board.put(entry)
        return True

    def _prune(self, one: Running, watch: Callable[[Job], str | None]) -> None:
        if one.pruned is None and not self.asked:
            one.pruned = watch(one.job)
            if one.pruned is not None:
                one.process.send_signal(signal.SIGTERM)

    def _say(self, job: Job, text: str) -> None:
        print(f"[{job.entry.name}] {text}", flush=True)

    def _take(self) -> dict[int, Any]:
        """Pass signals on to the running jobs; only a main thread may."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._pass_on) for number in SIGNALS}

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        # SLURM's warning asks for the same as its SIGTERM; the job is told which of them it was.
        self.asked = self.asked or (signal.SIGTERM if number == signal.SIGUSR1 else number)
        for one in self.running:
            one.process.send_signal(number)
