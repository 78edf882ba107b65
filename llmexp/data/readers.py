"""Rows from files: every reader yields (where, row), and says file and line when a row is bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

from llmexp.data.bad_rows import Bad, refuse
from llmexp.data.lines import Located, document, json_rows, jsonl_rows, pattern_rows
from llmexp.data.tables import csv_rows, parquet_rows
from llmexp.errors import UserError
from llmexp.tasks.base import Task

Reader = Callable[[Path, Task, Bad], Iterator[Located]]
READERS: dict[str, Reader] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
    ".txt": document,
}
# Here a pattern is applied to one column (formats.py), not to the lines of the file.
TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read(path: Path, task: Task, bad: Bad = refuse) -> Iterator[Located]:
    """(where, raw row) for each row of a file, read as its ending and the task's fields say."""
    if not path.is_file():
        raise UserError(missing_file(path))
    met = []

    def judged(error: UserError) -> None:
        met.append(error)
        bad(error)

    rows = _reader(path, task)(path, task, judged)
    first = next(rows, None)
    if first is None:
        if met:
            return
        raise UserError(f"{path}: the file is empty: there are no rows in it")
    yield first
    yield from rows


def missing_file(path: Path) -> str:
    """One sentence about a file that is not there, naming the nearest one that is."""
    folder = path.parent
    if path.is_dir():
        return f"{path}: this is a folder; name a file in it"
    if not folder.is_dir():
        return f"{path}: no such file (there is no folder {folder} either)"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    close = get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {folder / close[0]}?" if close else ""
    return f"{path}: no such file{hint}"


def unreadable_kind(path: Path, task: Task) -> str | None:
    """Why no reader fits this file's ending, or None."""
    if path.suffix.lower() in READERS or task.pattern is not None:
        return None
    known = ", ".join(sorted(READERS))
    return (
        f"{path}: cannot tell the format from the ending {path.suffix or '(none)'}; known are "
        f"{known}, and data.pattern reads one row from each line of any text file"
    )


def _reader(path: Path, task: Task) -> Reader:
    problem = unreadable_kind(path, task)
    if problem is not None:
        raise UserError(problem)
    suffix = path.suffix.lower()
    if task.pattern is not None and suffix not in TABLES:
        return pattern_rows
    return READERS[suffix]
