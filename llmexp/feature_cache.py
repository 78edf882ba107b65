"""Frozen states on disk: content-addressed, built once under a lock, memory-mapped, bounded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from llmexp.config import Cache
from llmexp.errors import UserError

Fill = Callable[[Tensor], None]
STATES, META = "states.bin", "meta.json"
GB = 10**9


@dataclass(frozen=True)
class Entry:
    """States of one split [positions, width], what computing them cost, and if it was spared."""

    states: Tensor
    seconds: float
    hit: bool


def digest(ingredients: dict[str, Any]) -> str:
    """A key that changes with any ingredient."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:40]


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

    def entry(self, key: str, shape: tuple[int, int], dtype: torch.dtype, fill: Fill) -> Entry:
        return timed(fill, torch.empty(shape, dtype=dtype))


class FeatureCache:
    """One folder for each key below `cache.dir`; the least recently used go when space is short."""

    def __init__(self, cache: Cache):
        self.folder = Path(cache.dir).expanduser() / "features"
        self.limit = int(cache.max_gb * GB)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cache.dir: {cache.dir} cannot be made ({error.strerror}); "
                "name another folder, or set cache.enabled=false"
            ) from error

    def refusal(self, size: int) -> str | None:
        """Why so many bytes cannot be kept, or None."""
        if size > self.limit:
            return f"{size / GB:.3g} GB is more than cache.max_gb={self.limit / GB:.3g}"
        free = shutil.disk_usage(self.folder).free
        removable = sum(self._size(entry) for entry in self._entries())
        if size > free + removable:
            return f"{size / GB:.3g} GB is more than the {free / GB:.3g} GB free under cache.dir"
        return None

    def entry(self, key: str, shape: tuple[int, int], dtype: torch.dtype, fill: Fill) -> Entry:
        """The states of this key, computed by `fill` if no process ever did; equal keys wait."""
        folder = self.folder / key
        with self._lock(key):
            found = self._open(folder, shape, dtype)
            if found is not None:
                return found
            self._make_room(size_of(shape, dtype), key)
            return self._build(folder, shape, dtype, fill)

    def _lock(self, key: str, timeout: float = -1) -> FileLock:
        return FileLock(str(self.folder / f"{key}.lock"), timeout=timeout)

    def _open(self, folder: Path, shape: tuple[int, int], dtype: torch.dtype) -> Entry | None:
        path, meta = folder / STATES, folder / META
        # A file of another length is what a crash of the machine may leave.
        if not meta.is_file() or path.stat().st_size != size_of(shape, dtype):
            return None
        os.utime(meta)
        seconds = json.loads(meta.read_text(encoding="utf-8"))["seconds"]
        states = torch.from_file(str(path), shared=False, size=shape[0] * shape[1], dtype=dtype)
        return Entry(states.view(shape), seconds, hit=True)

    def _build(self, folder: Path, shape: tuple[int, int], dtype: torch.dtype, fill: Fill) -> Entry:
        temporary = folder.with_name(f"{folder.name}.tmp")
        for leftover in (temporary, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        path = temporary / STATES
        try:
            _reserve(path, size_of(shape, dtype))
            states = torch.from_file(str(path), shared=True, size=shape[0] * shape[1], dtype=dtype)
            made = timed(fill, states.view(shape))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        facts = {"seconds": made.seconds, "shape": shape, "dtype": str(dtype)}
        (temporary / META).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        with path.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(folder)
        return made

    def _entries(self) -> list[Path]:
        """Every folder of the cache, least recently used first; unfinished ones are the oldest."""
        ages = []
        for folder in self.folder.iterdir():
            if folder.is_dir():
                meta = folder / META
                ages.append((meta.stat().st_mtime if meta.is_file() else 0.0, folder))
        return [folder for _, folder in sorted(ages)]

    def _size(self, folder: Path) -> int:
        path = folder / STATES
        return path.stat().st_size if path.is_file() else 0

    def _make_room(self, size: int, key: str) -> None:
        entries = self._entries()
        total = sum(self._size(entry) for entry in entries) + size
        free = shutil.disk_usage(self.folder).free
        for entry in entries:
            if total <= self.limit and size <= free:
                return
            name = entry.name.removesuffix(".tmp")
            if name != key:
                gone = self._remove(entry, name)
                total, free = total - gone, free + gone

    def _remove(self, entry: Path, key: str) -> int:
        """Bytes freed; an entry that a process is building or opening stays."""
        try:
            with self._lock(key, timeout=0):
                size = self._size(entry)
                shutil.rmtree(entry, ignore_errors=True)
                return size
        except Timeout:
            return 0


def _reserve(path: Path, size: int) -> None:
    """Allocate the blocks now: a mapped write to a full disk would be a SIGBUS."""
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise UserError(
                    f"cache.dir: no room for {size / GB:.3g} GB ({error.strerror}); lower "
                    "cache.max_gb, name another folder, or set cache.enabled=false"
                ) from error
        file.truncate(size)


def open_cache(cache: Cache) -> FeatureCache | MemoryOnly:
    return FeatureCache(cache) if cache.enabled else MemoryOnly()
