"""Batches in parts, where memory does not suffice for the whole."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from llmexp.errors import OutOfMemory
from llmexp.jobs.outcome import is_out_of_memory
from llmexp.tasks.base import Batch

T = TypeVar("T")
R = TypeVar("R")


class Attempt:
    """`with Attempt() as tried:` ends quietly where memory ran out; then `tried.failed` is true.

    What filled the memory is let go before anything is tried again: a trace would keep it.
    """

    failed = False

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.failed = is_out_of_memory(error)
        if self.failed:
            traceback.clear_frames(trace)
            gc.collect()
            torch.cuda.empty_cache()
        return self.failed


class Parts:
    """In how many parts a batch is worked on; doubled whenever that was too few."""

    def __init__(self) -> None:
        self.count = 1

    def of(self, batch: Batch) -> list[Batch]:
        return cut(batch, self.count)

    def double(self, batch: Batch) -> int:
        """How many rows a part has from here on; OutOfMemory where it had one already."""
        rows = size(batch)
        if rows <= self.count:
            raise OutOfMemory("one row at a time is too much", single=True)
        self.count *= 2
        return -(-rows // self.count)

    def each(self, work: Callable[[Batch], T], batch: Batch) -> Iterator[tuple[Batch, T]]:
        """(part, what `work` makes of it) for every part: of one that is too large, for halves."""
        waiting = self.of(batch)
        while waiting:
            with Attempt() as tried:
                found = work(waiting[0])
            if tried.failed:
                self.double(batch)
                waiting[:1] = cut(waiting[0], 2)
                continue
            yield waiting.pop(0), found


def size(batch: Batch) -> int:
    return len(batch["index"])


def cut(batch: Batch, parts: int) -> list[Batch]:
    """The rows of a batch in at most so many parts, as they are: padding included.

    Positions in the whole batch are left out: they mean nothing in a part.
    """
    rows = size(batch)
    step = -(-rows // parts)
    if step >= rows:
        return [batch]

    def taken(start: int) -> Batch:
        return {
            name: value[start : start + step]
            if isinstance(value, Tensor) and value.ndim and len(value) == rows
            else value
            for name, value in batch.items()
            if name not in ("supervised", "real")
        }

    return [taken(start) for start in range(0, rows, step)]


def halved(work: Callable[[list[T]], list[R]], items: list[T]) -> list[R]:
    """What `work` makes of all items; where they are too many at once, of each half."""
    with Attempt() as tried:
        return work(items)
    assert tried.failed
    if len(items) == 1:
        raise OutOfMemory("one row at a time is too much", single=True)
    half = len(items) // 2
    return halved(work, items[:half]) + halved(work, items[half:])
