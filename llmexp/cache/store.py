"""Things kept on disk: content-addressed, written once under a lock, bounded, oldest use first."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llmexp.config import Cache
from llmexp.errors import UserError

META, UNFINISHED = "meta.json", ".tmp"
GB = 10**9
KINDS = ("features", "tokens")


def digest(ingredients: dict[str, Any]) -> str:
    """A key that changes with any ingredient."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Kept:
    """One folder of the cache."""

    folder: Path

    @property
    def used(self) -> float:
        """When it was last opened, in seconds of the epoch; unfinished ones are the oldest."""
        try:
            return (self.folder / META).stat().st_mtime
        except OSError:
            return 0.0

    @property
    def size(self) -> int:
        """Bytes that are kept, without the facts; another process may be removing it."""
        total = 0
        for path in self.folder.glob("*"):
            try:
                total += path.stat().st_size if path.name != META else 0
            except OSError:
                continue
        return total

    @property
    def facts(self) -> dict[str, Any]:
        """What was written beside it; {} where that is missing or unreadable."""
        try:
            found = json.loads((self.folder / META).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remove(self) -> int | None:
        """Bytes freed; None where a process is building or opening it, and it stays."""
        try:
            with _lock(self.folder, timeout=0):
                size = self.size
                shutil.rmtree(self.folder, ignore_errors=True)
                return size
        except Timeout:
            return None


def _lock(folder: Path, timeout: float = -1) -> FileLock:
    name = folder.name.removesuffix(UNFINISHED)
    return FileLock(str(folder.with_name(f"{name}.lock")), timeout=timeout)


def kept(root: Path) -> list[Kept]:
    """Everything below `cache.dir`, least recently used first."""
    folders = [f for kind in KINDS if (root / kind).is_dir() for f in (root / kind).iterdir()]
    return sorted((Kept(f) for f in folders if f.is_dir()), key=lambda k: (k.used, k.folder))


class Store:
    """The entries of one kind; all kinds together stay below `cache.max_gb`."""

    def __init__(self, cache: Cache, kind: str):
        self.root = Path(cache.dir).expanduser()
        self.folder = self.root / kind
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
        removable = sum(entry.size for entry in kept(self.root))
        if size > free + removable:
            return f"{size / GB:.3g} GB is more than the {free / GB:.3g} GB free under cache.dir"
        return None

    def lock(self, key: str) -> FileLock:
        """Held while an entry is looked for and built: equal keys wait for each other."""
        return _lock(self.folder / key)

    def find(self, key: str) -> Kept | None:
        """The finished entry of this key, marked as used now."""
        meta = self.folder / key / META
        if not meta.is_file():
            return None
        os.utime(meta)
        return Kept(meta.parent)

    @contextmanager
    def publishing(self, key: str, size: int) -> Iterator[tuple[Path, dict[str, Any]]]:
        """A folder to write and facts to fill; the entry appears whole when the block ends well."""
        self._make_room(size, key)
        folder = self.folder / key
        temporary = folder.with_name(key + UNFINISHED)
        for leftover in (temporary, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        facts: dict[str, Any] = {}
        try:
            yield temporary, facts
            (temporary / META).write_text(json.dumps(facts) + "\n", encoding="utf-8")
            for path in temporary.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _make_room(self, size: int, key: str) -> None:
        entries = kept(self.root)
        total = sum(entry.size for entry in entries) + size
        free = shutil.disk_usage(self.folder).free
        for entry in entries:
            if total <= self.limit and size <= free:
                return
            if entry.folder.name.removesuffix(UNFINISHED) != key:
                gone = entry.remove() or 0
                total, free = total - gone, free + gone


def full_disk(size: int, error: OSError) -> UserError:
    return UserError(
        f"cache.dir: no room for {size / GB:.3g} GB ({error.strerror}); lower "
        "cache.max_gb, name another folder, or set cache.enabled=false"
    )
