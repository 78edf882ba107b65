"""Frozen states on disk: computed once into a memory-mapped file, found by content."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmexp.cache.checksum import checksum
from llmexp.cache.store import Kept, Store, digest, full_disk
from llmexp.config import Cache

__all__ = ["Entry", "FeatureCache", "MemoryOnly", "digest", "open_cache", "size_of"]

Fill = Callable[[Tensor], None]
STATES = "states.bin"


@dataclass(frozen=True)
class Entry:
    """States of one split [positions, width], what computing them cost, and if it was spared."""

    states: Tensor
    seconds: float
    hit: bool


def size_of(shape: tuple[int, int], dtype: torch.dtype) -> int:
    return shape[0] * shape[1] * dtype.itemsize


def timed(fill: Fill, states: Tensor) -> Entry:
    began = time.perf_counter()
    fill(states)
    return Entry(states, time.perf_counter() - began, hit=False)


class MemoryOnly:
    """Computes every time and keeps nothing: `cache.enabled=false`."""

    def refusal(self, size: int) -> str | None:
        return None

    def entry(
        self, key: str, shape: tuple[int, int], dtype: torch.dtype, fill: Fill, **about: Any
    ) -> Entry:
        return timed(fill, torch.empty(shape, dtype=dtype))


class FeatureCache:
    """States of a frozen network; `about` is what a list of the cache says of an entry."""

    def __init__(self, cache: Cache):
        self.store = Store(cache, "features")

    def refusal(self, size: int) -> str | None:
        """Why so many bytes cannot be kept, or None."""
        return self.store.refusal(size)

    def entry(
        self, key: str, shape: tuple[int, int], dtype: torch.dtype, fill: Fill, **about: Any
    ) -> Entry:
        """The states of this key, computed by `fill` if no process ever did; equal keys wait."""
        with self.store.lock(key):
            kept = self.store.find(key)
            found = _open(kept, shape, dtype) if kept is not None else None
            return found or self._build(key, shape, dtype, fill, about)

    def _build(
        self,
        key: str,
        shape: tuple[int, int],
        dtype: torch.dtype,
        fill: Fill,
        about: dict[str, Any],
    ) -> Entry:
        size = size_of(shape, dtype)
        with self.store.publishing(key, size) as (folder, facts):
            path = folder / STATES
            _reserve(path, size)
            states = torch.from_file(str(path), shared=True, size=shape[0] * shape[1], dtype=dtype)
            made = timed(fill, states.view(shape))
            facts["checksum"] = checksum(states)
            facts |= {"kind": "features", **about, "seconds": made.seconds}
            facts |= {"shape": shape, "dtype": str(dtype)}
        return made


def _open(kept: Kept, shape: tuple[int, int], dtype: torch.dtype) -> Entry | None:
    path, facts = kept.folder / STATES, kept.facts
    whole = path.is_file() and path.stat().st_size == size_of(shape, dtype)
    # A file of another length or content is what a crash of the machine may leave.
    if not whole or "seconds" not in facts:
        return None
    states = torch.from_file(str(path), shared=False, size=shape[0] * shape[1], dtype=dtype)
    if checksum(states) != facts.get("checksum"):
        return None
    return Entry(states.view(shape), facts["seconds"], hit=True)


def _reserve(path: Path, size: int) -> None:
    """Allocate the blocks now: a mapped write to a full disk would be a SIGBUS."""
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise full_disk(size, error) from error
        file.truncate(size)


def open_cache(cache: Cache) -> FeatureCache | MemoryOnly:
    return FeatureCache(cache) if cache.enabled else MemoryOnly()
