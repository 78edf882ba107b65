"""Jobs whose sweep was killed: they end by themselves, and nobody starts them twice meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from llmexp.errors import UserError

PATIENCE_SECONDS = 120.0


def runs_in(pid: int | None, folder: Path) -> bool:
    """Whether that process is a job in this folder; its number may be another program's by now."""
    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return not dead and any(Path(word).name == folder.name for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def wait_for(pid: int | None, folder: Path, given_up: Callable[[], bool]) -> None:
    """Wait until the job of an earlier, killed start has saved and gone, or nobody wants it to."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while runs_in(pid, folder) and not given_up():
        if time.monotonic() > deadline:
            raise UserError(f"process {pid} still runs in {folder}; end it, then start again")
        time.sleep(0.2)
