"""What a person can change where the machine was too small: overrides that can be typed."""

from __future__ import annotations

import re
import shutil
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmexp.jobs.record import Record

WORKER = re.compile(r"DataLoader worker \(pid")


def memory(record: Record, error: BaseException) -> str:
    """Why memory did not suffice, and three things that take less."""
    single = getattr(error, "single", False)
    size = _size(record)
    where = "with one row at a time" if single else f"at {size}"
    why = f" ({error})" if hasattr(error, "single") and not single else ""
    return f"out of memory {where}{why}; try {', '.join(smaller(record, single)[:3])}"


def smaller(record: Record, single: bool) -> list[str]:
    """Overrides that need less memory, the ones that change least first."""
    config, task = record.config, record.task
    accumulate = config.trainer.get("accumulate_grad_batches", 1)
    found = []
    if not single:
        name, size = _size(record).split("=")
        halves = max(1, int(size) // 2)
        found.append(f"{name}={halves} trainer.accumulate_grad_batches={2 * accumulate}")
    if config.strategy.trains and not config.model.gradient_checkpointing:
        found.append("model.gradient_checkpointing=true")
    encoded = record.result.get("encoding", {}).get("train", {})
    longest = encoded.get("longest") or task.max_length or 512
    found.append(f"data.max_length={max(8, longest // 2)}")
    if config.model.dtype == "float32":
        found.append("model.dtype=bfloat16")
    if config.strategy.trains and config.optim.states == "full":
        found.append("optim.states=8bit")
    return found


def _size(record: Record) -> str:
    rows, tokens = record.task.batch_size, record.task.tokens_per_batch
    return f"data.batch_size={rows}" if tokens is None else f"data.tokens_per_batch={tokens}"


def room(folder: Path, error: BaseException) -> str:
    """Where the disk is full, and how much of it is free."""
    free = shutil.disk_usage(folder).free
    name = getattr(error, "filename", None)
    what = Path(name).name if isinstance(name, str) else "a file of this run"
    return (
        f"the disk is full: {what} could not be written, {free / 1e6:.1f} MB are free at {folder}; "
        "free some space, then resume"
    )


def lost_worker(record: Record, error: BaseException) -> str | None:
    """A sentence where a process that prepares batches was killed; None where none was."""
    frames = traceback.extract_tb(error.__traceback__)
    broken = isinstance(error, (ConnectionError, EOFError))
    loading = any("torch/utils/data" in frame.filename for frame in frames)
    if not (broken and loading) and not WORKER.search(str(error)):
        return None
    number = record.task.num_workers
    killed = re.search(r"killed by signal: (.*?)\.?\s*$", str(error))
    how = f"was killed ({killed.group(1)})" if killed else "is gone"
    return (
        f"a data worker {how}, often for want of memory (dmesg tells) or of room in /dev/shm; try "
        f"data.num_workers={number // 2}, data.num_workers=0, or a smaller data.batch_size than "
        f"{record.task.batch_size}"
    )
