"""The file that a study is kept in."""

from __future__ import annotations

from pathlib import Path

FILE = "study.journal"


def repaired(path: Path) -> Path:
    """The journal without what a killed search left behind: half a line, its lock.

    Only for a process that is alone with it.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.is_file():
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            with path.open("r+b") as file:
                file.truncate(end)
    return path
