"""`sweep.json`: the state of every job of a sweep, written atomically whenever one changes."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from llmexp.errors import UserError
from llmexp.jobs.results import write_atomic

if TYPE_CHECKING:
    from llmexp.sweeps.job import Job

FILE = "sweep.json"
GOOD = ("completed", "pruned")
ENDED = {143: "preempted", 130: "interrupted"}


@dataclass
class Entry:
    """One job as `sweep.json` shows it."""

    name: str
    """Its folder, inside that of the sweep."""
    identity: str
    overrides: list[str]
    status: str = "pending"
    """pending, running, pruned, or how its run ended (`result.json`)."""
    reason: str | None = None
    started: float | None = None
    seconds: float | None = None
    pid: int | None = None
    starts: int = 0
    """How often it was started; a job that is found complete keeps its count."""
    values: dict[str, float] = field(default_factory=dict)
    """Of its metrics: what the table shows."""


class Board:
    """The jobs of one sweep folder; every change is on disk before the call returns."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / FILE

    def read(self) -> dict[str, Any]:
        """The file as it is; {} where there is none."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def entries(self) -> list[Entry]:
        return [Entry(**line) for line in self.read().get("jobs", [])]

    def open(self, overrides: list[str]) -> None:
        """A start of the sweep; what earlier ones, also cut off ones, knew of its jobs is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"schema": 1, "status": "running", "overrides": overrides, "started": time.time()}
        state |= {"pid": os.getpid(), "host": socket.gethostname(), "ended": None, "signal": 0}
        before = self.read()
        lines = [*before.get("earlier", []), *before.get("jobs", [])]
        known = {line["name"]: _to_come(line) for line in lines}
        self._write({**state, "jobs": [], "earlier": list(known.values())})

    def tell(self, **facts: Any) -> None:
        """Facts about the sweep as a whole."""
        with self._locked():
            self._write({**self.read(), **facts})

    def stop(self, number: int) -> None:
        """A signal ends the sweep; what has not been started stays pending."""
        self.tell(signal=number)

    def close(self) -> int:
        """The end of the sweep; its exit code."""
        state = self.read()
        bad = not all(line["status"] in GOOD for line in state["jobs"])
        code = 128 + state["signal"] if state["signal"] else int(bad)
        status = ENDED.get(code, "failed" if bad else "completed")
        del state["earlier"]
        self._write({**state, "status": status, "ended": time.time()})
        return code

    def plan(self, jobs: Iterable[Job]) -> None:
        """Show jobs that are to come; one that ran in an earlier start keeps its history.

        One that is complete is shown as that at once: it will not be run, and takes no time.
        """
        jobs = list(jobs)
        for job in jobs:
            if job.complete:
                job.learn()
        with self._locked():
            state = self.read()
            earlier = {line["name"]: line for line in state.get("earlier", [])}
            lines = {line["name"]: line for line in state["jobs"]}
            for entry in (job.entry for job in jobs):
                before = earlier.get(entry.name)
                if before is not None and before["identity"] == entry.identity:
                    entry.starts, entry.seconds = before["starts"], before["seconds"]
                    entry.started, entry.pid = before["started"], before["pid"]
                lines[entry.name] = asdict(entry)
            self._write({**state, "jobs": list(lines.values())})

    def recall(self) -> None:
        """Show the jobs of earlier starts, too: this one may have nothing left to do for them."""
        with self._locked():
            state = self.read()
            self._write({**state, "jobs": [*state["earlier"], *state["jobs"]]})

    def put(self, entry: Entry) -> None:
        """Replace what is shown of one job."""
        with self._locked():
            state = self.read()
            lines = {line["name"]: line for line in state["jobs"]}
            lines[entry.name] = asdict(entry)
            self._write({**state, "jobs": list(lines.values())})

    def _locked(self) -> FileLock:
        # Joblib's jobs write from processes of their own.
        return FileLock(self.folder / ".sweep.json.lock")

    def _write(self, state: dict[str, Any]) -> None:
        write_atomic(self.path, json.dumps(state, indent=2, ensure_ascii=False) + "\n")


def _to_come(line: dict[str, Any]) -> dict[str, Any]:
    """What an earlier start wrote of a job, as it is when the sweep is started again."""
    return line if line["status"] in GOOD else {**line, "status": "pending", "reason": None}


def claim(folder: Path) -> FileLock:
    """Hold the folder of a sweep until this process ends; refuses one that is being run."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".sweep.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        pid = Board(folder).read().get("pid")
        raise UserError(
            f"{folder}: process {pid} is running this sweep; watch it with "
            f"llmexp status {folder}, or give another hydra.sweep.dir"
        ) from error
    return lock
