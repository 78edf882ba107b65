"""What a node of a cluster does: the job of one folder, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any

ALIVE = ".alive"
SIGNAL = ".signal"
POLL_SECONDS = 0.5


class Errand:
    """Called by submitit on every task of the job; returns the exit code of the run."""

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self) -> int:
        from llmexp.jobs.job import command
        from llmexp.jobs.launch import PARENT, global_rank

        folder = Path(self.folder)
        (folder / ALIVE).touch()
        name = "console.log" if global_rank() == 0 else f"rank_{global_rank()}.log"
        environment = os.environ | {PARENT: str(os.getpid())}
        with (folder / name).open("a", encoding="utf-8") as log:
            self.child = subprocess.Popen(  # noqa: S603
                command(folder), env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        signal.signal(signal.SIGTERM, self._pass_on)
        return self._wait(folder / SIGNAL)

    def checkpoint(self) -> Any:
        """The queue takes the node away: the run saves, and goes on with its next turn."""
        from submitit.helpers import DelayedSubmission

        self.child.send_signal(signal.SIGTERM)
        self.child.wait()
        return DelayedSubmission(Errand(self.folder))

    def _wait(self, asked: Path) -> int:
        told = 0
        while (code := self.child.poll()) is None:
            number = int(asked.read_text() or 0) if asked.is_file() else 0
            if number and number != told:
                told = number
                self.child.send_signal(number)
            time.sleep(POLL_SECONDS)
        return int(code)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.child.send_signal(number)
