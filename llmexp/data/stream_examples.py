"""Examples of a stream: its first rows stand for all, validation and test are held as usual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmexp.data.bad_rows import BadRows
from llmexp.data.formats import format_note
from llmexp.data.splits import content_key, overlap_notes
from llmexp.data.stream_rows import RowStream
from llmexp.errors import UserError
from llmexp.tasks.base import Examples, Row, Task

# The first rows: what the doctor shows, a tokenizer is trained on, and a baseline counts.
HEAD_ROWS, HEAD_CHARACTERS = 10_000, 10_000_000


def streamed_examples(task: Task) -> Examples:
    """The held-out rows, a way to read the train rows, and the first of them."""
    from llmexp.data.sources import fingerprint

    found = Examples(train=[], validation=[], test=[])
    counts: Counter[str] = Counter()
    held: dict[str, list[Row]] = {}
    taken = 0
    for name in ("validation", "test"):
        locator, limit = getattr(task, name), getattr(task.limit, name)
        source = RowStream(task, locator or task.train, 0 if locator else taken, limit)
        # What is read again below is counted there.
        held[name] = list(source.rows(counts if locator else Counter()))
        if locator is None:
            taken += len(held[name])
            found.notes.append(f"{name}: {len(held[name])} rows from the beginning of train")
        if not held[name]:
            raise UserError(f"data.{name}: {source.locator} has no row for it")
    leaks = frozenset(content_key(row) for rows in held.values() for row in rows)
    leaked = leaks if task.overlap == "drop" else frozenset()
    found.stream = RowStream(task, task.train, taken, task.limit.train, leaked)
    found.train = list(_head(found.stream.rows(counts), task))
    if not found.train:
        raise UserError(f"data.train: {task.train} has no row left after {taken} are held out")
    found.validation, found.test = held["validation"], held["test"]
    found.bad = counts["bad_rows"]
    found.notes += _notes(task, found)
    splits = {"train": found.train, **held}
    found.fingerprint = {name: fingerprint(rows) for name, rows in splits.items()}
    return found


def _head(rows: Iterable[Row], task: Task) -> Iterator[Row]:
    characters = 0
    for number, row in enumerate(rows, start=1):
        yield row
        characters += sum(map(len, task.texts([row])))
        if number == HEAD_ROWS or characters >= HEAD_CHARACTERS:
            return


def _notes(task: Task, found: Examples) -> list[str]:
    from llmexp.data.sources import canonical_rows

    where, raw, _ = next(canonical_rows(task, task.train, BadRows(task, task.train)))
    note = format_note(raw, task, where)
    size = f" ({Path(task.train).stat().st_size:,} bytes)" if Path(task.train).is_file() else ""
    said = (
        f"train is streamed from {task.train}{size}: fingerprint, overlap and baseline are those "
        f"of its first {len(found.train)} rows, and no tokens or frozen states of it are kept"
    )
    held = {"validation": found.validation, "test": found.test}
    return [*([note] if note else []), said, *overlap_notes(found.train, held)]
