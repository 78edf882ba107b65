"""What the processes before this one spent on the same run: it may have been ended and resumed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from llmexp.jobs.results import read_result


class Lives:
    """The seconds of one run over all its processes.

    Up to the checkpoint that is resumed they led to this result and belong to its total. What an
    earlier process spent after its last checkpoint, or without ever writing one, was lost.
    """

    def __init__(self, folder: Path, resumes: bool):
        self.began = time.perf_counter()
        self.started = time.time()
        """The same moment by the clock, for a process after this one."""
        self.before = spent(folder, read_result(folder)) if resumes else 0.0
        """Seconds of all processes before this one."""
        self.kept = 0.0
        """Those of them that the resumed checkpoint holds."""
        self.peak_memory_mb = 0.0
        """The most that one of them held."""
        self.spared_seconds: float | None = None
        """What the cache spared the process that first opened it."""

    def seconds(self) -> float:
        """Of this run so far, without what was lost."""
        return round(self.kept + time.perf_counter() - self.began, 3)

    def lost(self) -> float:
        return round(max(0.0, self.before - self.kept), 3)


def spent(folder: Path, result: dict[str, Any]) -> float:
    """Seconds of every process that wrote this result; one that was killed, as far as it wrote."""
    cost = result.get("cost", {})
    closed = cost.get("total_seconds", 0.0)
    lost = cost.get("lost_seconds", 0.0)
    if closed or "started" not in result:
        return float(closed + lost)
    # Other programs may write result.json when they find the run dead: these only the run writes.
    written = [folder / "provenance.json", folder / "metrics.jsonl"]
    written += (folder / "checkpoints").glob("*")
    last = max((path.stat().st_mtime for path in written if path.exists()), default=0.0)
    return float(max(0.0, last - result["started"]) + lost)
