"""`result.json`: what a run left, under the same keys everywhere. Written atomically."""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import threading
from pathlib import Path
from typing import Any

from llmexp.jobs.launch import is_first
from llmexp.secrets import hidden, leaves_hidden

EXIT_CODES = {
    "completed": 0,
    "failed": 1,
    "diverged": 3,
    "out_of_memory": 4,
    "interrupted": 130,
    "preempted": 143,
    "running": 1,
}
FILE, ROOM = "result.json", ".room"
# A result with many notes is some kilobytes.
ROOM_BYTES = 1 << 16


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text`: readers see the old file or the new one, never half of one."""
    # Threads write, too: the one that hears signals, and the one that watches the other processes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(hidden(text))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def written(value: Any) -> str:
    """A tree as JSON, its secrets hidden while they are not yet spelt as JSON spells them."""
    return json.dumps(_jsonable(leaves_hidden(value)), indent=2, ensure_ascii=False) + "\n"


def _jsonable(value: Any) -> Any:
    """JSON has no NaN and no infinity; null says that a number is not there."""
    if isinstance(value, dict):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def begun(
    folder: Path, tree: dict[str, Any], overrides: list[str], options: list[str]
) -> dict[str, Any]:
    """What `result.json` says from the moment there is a folder."""
    choices = tree["choices"]
    again = [*options, *(line for line in overrides if not line.startswith("resume="))]
    again = [hidden(line) for line in again]
    again += ["resume=auto", f"hydra.run.dir={os.path.relpath(folder)}"]
    return {
        "schema": 1,
        "status": "running",
        "reason": None,
        "name": tree["name"],
        **{group: choices[group] for group in ("strategy", "model", "data")},
        "seed": tree["seed"],
        "overrides": overrides,
        "metrics": {},
        "resume_command": f"python -m llmexp run {shlex.join(again)}",
    }


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Replace the result; on a full disk out of the room that was reserved for it."""
    text = written(result)
    try:
        write_atomic(folder / FILE, text)
    except OSError as error:
        room = folder / ROOM
        if not is_full(error) or not room.is_file():
            raise
        with room.open("r+b") as file:
            file.write(hidden(text).encode())
            file.truncate()
            os.fsync(file.fileno())
        room.replace(folder / FILE)


def reserve(folder: Path) -> None:
    """Keep room on the disk for a last word, once: a file of its size."""
    room = folder / ROOM
    if not room.is_file():
        try:
            with room.open("wb", buffering=0) as file:
                # No hole: blocks are what has to be there.
                file.write(bytes(ROOM_BYTES))
                os.fsync(file.fileno())
        except OSError:
            room.unlink()
            raise


def forget_room(folder: Path) -> None:
    (folder / ROOM).unlink(missing_ok=True)


def is_full(error: BaseException | None) -> bool:
    """Whether the disk, or what a user may have of it, is full; also in a library's own words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # What is written in Rust raises errors of its own.
    said = str(error) if error is not None else ""
    return "No space left on device" in said or "Disk quota exceeded" in said


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a run folder; {} where there is none that can be read."""
    return read_object(folder / FILE)


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; {} where it is missing or torn."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_finished(result: dict[str, Any]) -> bool:
    return result.get("status", "running") != "running"


def mark_stopped(folder: Path, status: str, reason: str) -> int:
    """Record why a run stopped outside its own record of it; the exit code of what is recorded."""
    result = read_result(folder)
    if result and is_first() and not is_finished(result):
        result |= {"status": status, "reason": reason}
        write_result(folder, result)
        forget_room(folder)
    return EXIT_CODES[result.get("status", status) if is_first() else status]


def mark_dead(folder: Path, code: int, log: Path) -> dict[str, Any]:
    """Record a job whose process ended without saying how; negative codes are signals."""
    reason = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    text = log.read_text(errors="replace") if log.is_file() else ""
    said = [line for line in text.splitlines() if line.strip()]
    if code > 0 and said:
        reason = f"{reason}: {said[-1][:300]}"
    result = {**read_result(folder), "status": "failed", "reason": reason}
    result.setdefault("schema", 1)
    write_result(folder, result)
    return result
