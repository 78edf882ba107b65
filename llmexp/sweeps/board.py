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

from filelock import FileLock

from llmexp.jobs.results import write_atomic, written
from llmexp.sweeps.claim import Claim
from llmexp.sweeps.journal import FILE as JOURNAL
from llmexp.sweeps.journal import repaired

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

    def __init__(self, folder: Path, claim: Claim | None = None):
        self.folder = folder
        self.claim = claim or Claim(folder)
        self.path = folder / FILE

    def read(self) -> dict[str, Any]:
        """The file as it is; {} where there is none."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def entries(self) -> list[Entry]:
        return [Entry(**line) for line in self.read().get("jobs", [])]

    def enter(self, overrides: list[str]) -> None:
        """Begin the sweep, or join those who work on its search already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.claim.take():
                repaired(self.folder / JOURNAL)
                self.open(overrides)
            else:
                state = self.read()
                self._write({**state, "workers": [*state["workers"], _me()]})
            self.claim.share()

    def open(self, overrides: list[str]) -> None:
        """A start of the sweep; what earlier ones, also cut off ones, knew of its jobs is kept."""
        state = {"schema": 1, "status": "running", "overrides": overrides, "started": time.time()}
        state |= {"workers": [_me()], "ended": None, "signal": 0}
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
        """The end of the sweep for this process; its exit code. The last one says how it went."""
        with self._locked():
            last, state = self.claim.leave(), self.read()
            fine = GOOD if last else (*GOOD, "running", "pending")
            bad = not all(line["status"] in fine for line in state["jobs"])
            code = 128 + state["signal"] if state["signal"] else int(bad)
            if last:
                state |= {"status": ENDED.get(code, "failed" if bad else "completed")}
                state |= {"ended": time.time()}
                del state["earlier"]
            self._write(state if last else {**state, "signal": 0})
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
                before = lines.get(entry.name) or earlier.get(entry.name)
                if before is not None and before["identity"] == entry.identity:
                    entry.starts, entry.seconds = before["starts"], before["seconds"]
                    entry.started, entry.pid = before["started"], before["pid"]
                lines[entry.name] = asdict(entry)
            self._write({**state, "jobs": list(lines.values())})

    def recall(self) -> None:
        """Show the jobs of earlier starts, too: this one may have nothing left to do for them."""
        with self._locked():
            state = self.read()
            lines = {line["name"]: line for line in [*state["earlier"], *state["jobs"]]}
            self._write({**state, "jobs": list(lines.values())})

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
        write_atomic(self.path, written(state))


def _me() -> dict[str, Any]:
    """This process, for those who ask whether it lives."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}


def _to_come(line: dict[str, Any]) -> dict[str, Any]:
    """What an earlier start wrote of a job, as it is when the sweep is started again."""
    return line if line["status"] in GOOD else {**line, "status": "pending", "reason": None}
