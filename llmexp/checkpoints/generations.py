"""The checkpoints of one run on disk: whole or not there, the one before kept, never half of one.

    last.ckpt       to resume from
    last.ckpt.bad   one that was not whole when it was to be resumed from
    previous.ckpt   the one before it
    best.ckpt       the one that is tested
    manifest.json   sha256, size and step of every file that was written to its end

A file that the manifest does not know by its hash is one whose writing was interrupted, or that was
harmed since. Hashes count and not names, so that a file is known whatever it is called by the time
its writer is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from llmexp.errors import NoSpace, UserError
from llmexp.jobs.results import is_full, write_atomic

LAST, PREVIOUS, BEST, MANIFEST = "last.ckpt", "previous.ckpt", "best.ckpt", "manifest.json"
UNFINISHED, BAD = ".unfinished", ".bad"
# What a file system may need beside the bytes of a file.
MARGIN = 1 << 20


class Hashing:
    """A file that knows the hash of what went into it."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


class Generations:
    """A folder of checkpoints."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str, save: Callable[[Any], None], size: int, step: int) -> None:
        """Let `save` write a file of about `size` bytes that appears whole, or not at all.

        A new `last.ckpt` makes the one there the previous one. Without room, bad ones and the
        previous one go first, then it is tried once more; NoSpace says what was needed and what
        was there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"*{UNFINISHED}"):
            leftover.unlink()
        if size + MARGIN > self.free():
            self.prune()
        if size + MARGIN > self.free():
            raise self.no_space(name, size)
        try:
            self._write(name, save, step)
        except OSError as error:
            if not is_full(error):
                raise
            self.prune()
            try:
                self._write(name, save, step)
            except OSError as again:
                if not is_full(again):
                    raise
                raise self.no_space(name, size) from again

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint to resume from, and what is wrong with newer ones."""
        notes: list[str] = []
        for name in (LAST, PREVIOUS):
            path = self.folder / name
            if not path.is_file():
                continue
            if self.is_whole(path):
                return path, notes
            notes.append(f"checkpoints/{name} is not whole")
        return None, notes

    def to_resume(self) -> tuple[Path | None, list[str]]:
        """As `newest`; refuses to begin anew over checkpoints of which none is whole."""
        path, notes = self.newest()
        if path is None and notes:
            raise UserError(
                f"{self.folder.parent}: {' and '.join(notes)} (or checkpoints/{MANIFEST} is not), "
                "so there is nothing to go on from; put them back, begin anew in another folder "
                f"(hydra.run.dir=...), or begin anew here by removing {self.folder}"
            )
        return path, notes

    def set_aside(self) -> None:
        """Rename what is not whole, where one is: the next save would push that one out for it."""
        path, notes = self.newest()
        if path is not None and notes:
            last = self.folder / LAST
            last.replace(last.with_name(LAST + BAD))
            sync(self.folder)

    def is_whole(self, path: Path) -> bool:
        """Whether the file holds what was once completely written, whatever it was called then."""
        if not path.is_file():
            return False
        manifest, size = self.manifest(), path.stat().st_size
        return any(f["size"] == size for f in manifest.values()) and hash_of(path) in manifest

    def manifest(self) -> dict[str, Any]:
        """File name, size and step by sha256; {} where there is none that can be read."""
        try:
            found = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def free(self) -> int:
        """Bytes that this user can still write here."""
        return shutil.disk_usage(self.folder).free

    def prune(self) -> None:
        """Give up bad ones, and the oldest that is not the best if a newer whole one is there."""
        for bad in self.folder.glob(f"*{BAD}"):
            bad.unlink()
        last = self.folder / LAST
        if last.is_file() and self.is_whole(last):
            (self.folder / PREVIOUS).unlink(missing_ok=True)
            sync(self.folder)

    def no_space(self, name: str, size: int) -> NoSpace:
        return NoSpace(
            f"the disk is full: checkpoints/{name} needs {size / 1e6:.1f} MB and "
            f"{self.free() / 1e6:.1f} MB are free at {self.folder}; the checkpoints there are "
            "whole: free some space, then resume"
        )

    def _write(self, name: str, save: Callable[[Any], None], step: int) -> None:
        """The bytes under a name that nobody reads, then their names; no trace of a failure."""
        temporary = self.folder / (name + UNFINISHED)
        try:
            with temporary.open("wb") as file:
                hashing = Hashing(file)
                save(hashing)
                file.flush()
                os.fsync(file.fileno())
            facts = {"file": name, "size": hashing.size, "step": step}
            self._publish(temporary, hashing.sha256.hexdigest(), facts)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _publish(self, temporary: Path, sha256: str, facts: dict[str, Any]) -> None:
        name, known = facts["file"], self.manifest()
        self._write_manifest({**known, sha256: facts})
        path = self.folder / name
        if name == LAST and path.is_file():
            path.replace(self.folder / PREVIOUS)
        temporary.replace(path)
        sync(self.folder)
        if name == LAST:
            known = {h: f for h, f in known.items() if f["file"] != PREVIOUS}
            known = {h: {**f, "file": moved(f["file"])} for h, f in known.items()}
        else:
            known = {h: f for h, f in known.items() if f["file"] != name}
        self._write_manifest({**known, sha256: facts})

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_atomic(self.folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        sync(self.folder)


def moved(name: str) -> str:
    """What a file is called once there is a newer one."""
    return PREVIOUS if name == LAST else name


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(folder: Path) -> None:
    """Names, too, are on the disk only when their folder is."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
