"""The processes of a distributed run: which one this is, how the others start, how they end."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from llmexp.jobs.job import command
from llmexp.jobs.launch import PARENT
from llmexp.jobs.results import EXIT_CODES

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from llmexp.jobs.record import Record

# How long the first process may take to end by itself once another one has died.
GRACE_SECONDS = 20.0
STATUSES = {code: status for status, code in EXIT_CODES.items() if code > 1}


class Ranks(_SubprocessScriptLauncher):
    """Starts the other processes of this node as `python -m llmexp.jobs.job FOLDER`.

    Lightning's own launcher repeats whatever program it finds itself in, and its watcher kills the
    first process with SIGKILL as soon as another one ends with a code, also after a clean stop.
    """

    def __init__(self, other: _SubprocessScriptLauncher, record: Record):
        super().__init__(other.cluster_environment, other.num_processes, other.num_nodes)
        self.record = record

    def launch(
        self, function: Callable, *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any
    ) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._start()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.num_processes))
        return function(*args, **kwargs)

    def _start(self) -> None:
        """Start ranks 1 and up; each writes what it has to say into its own log."""
        where = self.cluster_environment
        os.environ |= {
            "MASTER_ADDR": where.main_address,
            "MASTER_PORT": str(where.main_port),
            "NODE_RANK": str(where.node_rank()),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        folder = self.record.folder
        for rank in range(1, self.num_processes):
            with log_of(folder, rank).open("w", encoding="utf-8") as log:
                self.procs.append(start(folder, {"LOCAL_RANK": str(rank)}, log))
        self.record.ranks = self
        threading.Thread(target=self._watch, daemon=True, name="ranks").start()

    def _watch(self) -> None:
        """A process that waits for a dead one would wait for long; end it, and say why."""
        while not self.lost():
            if all(child.poll() == 0 for child in self.procs):
                return
            time.sleep(0.5)
        time.sleep(GRACE_SECONDS)
        try:
            self.record.fail(None)
            for child in self.procs:
                child.kill()
        finally:
            os._exit(EXIT_CODES[self.record.result["status"]])

    def lost(self, wait: float = 0.0) -> tuple[str, str] | None:
        """The status and the last words of a process that ended badly; None while all is well.

        A connection breaks before the process at its other end is gone: so `wait` for it.
        """
        deadline = time.monotonic() + wait
        while all(child.poll() is None for child in self.procs) and time.monotonic() < deadline:
            time.sleep(0.1)
        for rank, child in enumerate(self.procs, 1):
            code = child.poll()
            if code:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                log = log_of(self.record.folder, rank)
                text = log.read_text(errors="replace") if log.is_file() else ""
                said = [line for line in text.splitlines() if line.strip()]
                last = f": {said[-1][:300]}" if said and code > 0 else ""
                return STATUSES.get(code, "failed"), f"process {rank} {how}{last}"
        return None

    def forget(self) -> None:
        """Remove the logs of a run that went well."""
        for rank in range(1, self.num_processes):
            log_of(self.record.folder, rank).unlink(missing_ok=True)


def log_of(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank}.log"


def start(folder: Path, environment: dict[str, str], log: IO[str]) -> subprocess.Popen[bytes]:
    """Another process of the run in `folder`; it ends when this one does."""
    more = {**environment, PARENT: str(os.getpid())}
    return subprocess.Popen(  # noqa: S603
        command(folder), env=os.environ | more, stdout=log, stderr=subprocess.STDOUT
    )
