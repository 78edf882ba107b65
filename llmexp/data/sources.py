"""Examples of a data node: locators resolved, rows canonical, splits fixed, leaks named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from llmexp.data.bad_rows import Bad, BadRows, refuse
from llmexp.data.check import SPLITS, quick_check
from llmexp.data.formats import format_note
from llmexp.data.hub import read_hub
from llmexp.data.lines import Located
from llmexp.data.pydocs import read_pydocs
from llmexp.data.readers import read
from llmexp.data.splits import carve, cleaned, limited, overlap_notes
from llmexp.data.stream_hub import stream_hub
from llmexp.errors import UserError, did_you_mean
from llmexp.tasks.base import Examples, Row, Task

__all__ = ["fingerprint", "load_examples", "quick_check"]


def load_examples(task: Task) -> Examples:
    """Canonical rows of every split, their class names, fingerprints and what a user should know.

    The same task always gives the same examples: the run's seed plays no part.
    """
    if task.streaming:
        from llmexp.data.stream_examples import streamed_examples

        return streamed_examples(task)
    found = Examples(train=[], validation=[], test=[])
    notes = found.notes
    train = _rows(task, task.train, "train", found)
    parts = {name: _given(task, name, found) for name in ("test", "validation")}
    train = cleaned(train, parts, task, notes)
    rest = _carved(task, train, parts, notes)
    labels = sorted({row["label"] for row in train if "label" in row})
    splits = {
        name: limited(rows, getattr(task.limit, name), task.split_seed, name)
        for name, rows in {"train": rest, **parts}.items()
    }
    _check(task, labels, splits)
    absent = sorted(set(labels) - {row.get("label") for row in splits["train"]})
    if absent:
        notes.append(f"after data.limit.train, train has no row of {', '.join(absent)}")
    notes += overlap_notes(splits["train"], {name: splits[name] for name in ("validation", "test")})
    prints = {name: fingerprint(rows) for name, rows in splits.items()}
    found.train, found.validation, found.test = (splits[name] for name in SPLITS)
    return replace(found, labels=labels, fingerprint=prints)


def fingerprint(rows: Iterable[Row]) -> str:
    """sha256 over the canonical rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _given(task: Task, name: str, found: Examples) -> list[Row]:
    locator = getattr(task, name)
    return [] if locator is None else _rows(task, locator, name, found)


def _carved(
    task: Task, train: list[Row], parts: dict[str, list[Row]], notes: list[str]
) -> list[Row]:
    """Fills the parts no locator gives with fractions of the whole of train; returns the rest."""
    rest, kept = train, 1.0
    for name in ("test", "validation"):
        fraction = getattr(task, f"{name}_fraction")
        if getattr(task, name) is not None or fraction == 0:
            continue
        if fraction >= kept:
            raise UserError("data: validation_fraction and test_fraction leave no train rows")
        # Of the whole, not of what an earlier carving left: 0.1 and 0.1 leave 0.8.
        rest, parts[name] = carve(rest, fraction / kept, task.split_seed, name)
        kept -= fraction
        notes.append(f"{name}: {len(parts[name])} rows carved from train (data.{name} is null)")
    return rest


def _rows(task: Task, locator: str, split: str, found: Examples) -> list[Row]:
    """Canonical rows of one split in source order; bad and empty ones left out and counted."""
    bad = BadRows(task, locator)
    rows: list[Row] = []
    for where, raw, row in canonical_rows(task, locator, bad):
        if not rows and split == "train":
            note = format_note(raw, task, where)
            found.notes += [note] if note is not None else []
        rows.append(row)
    found.notes += bad.close(len(rows))
    found.bad += bad.count
    if not rows:
        raise UserError(f"data.{split}: {locator} has no rows")
    if task.separator is not None and all(set(row) == {"text"} for row in rows):
        rows = _joined(rows, task.separator)
    full = [row for row in rows if not is_blank(row)]
    if not full:
        raise UserError(f"data.{split}: every text in {locator} is empty")
    if len(full) < len(rows):
        found.notes.append(f"{split}: {len(rows) - len(full)} rows with an empty text left out")
    return full


def _joined(rows: list[Row], separator: str) -> list[Row]:
    """Rows that are lines of documents, put together and parted at the separator."""
    text = "".join(row["text"] for row in rows)
    separator = separator.replace("\\n", "\n")
    parts = text.split(separator) if separator else [text]
    return [{"text": part} for part in parts if part.strip()]


def is_blank(row: Row) -> bool:
    """Whether the text, or the answer, says nothing."""
    return not (row["messages"][-1]["content"] if "messages" in row else row["text"]).strip()


def canonical_rows(task: Task, locator: str, bad: Bad) -> Iterator[tuple[str, Row, Row]]:
    """(where, raw row, canonical row) of whatever a locator names, in source order."""
    for where, raw in _typed(task, located_rows(task, locator, bad), bad):
        try:
            row = task.canonical(raw, where)
        except UserError as error:
            bad(error)
        else:
            yield where, raw, row


def located_rows(task: Task, locator: str, bad: Bad = refuse) -> Iterator[Located]:
    """(where, raw row) of whatever a locator names."""
    scheme, _, rest = locator.partition(":")
    if scheme == "specimens":
        rows = enumerate(task.specimens(rest), start=1)
        return ((f"{locator}: row {number}", row) for number, row in rows)
    if scheme in SCHEMES and not Path(locator).exists():
        if task.streaming and scheme == "hub":
            return stream_hub(locator)
        return SCHEMES[scheme](locator)
    return read(Path(locator), task, bad)


def read_python(locator: str) -> Iterator[Located]:
    """(where, raw row) from a callable without arguments, of a package the user has allowed."""
    from llmexp.configure.allow import imported, widened

    rows = imported(locator.partition(":")[2], widened())()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{locator}: row {number}: expected a dict, found {row!r:.60}")
        yield f"{locator}: row {number}", row


SCHEMES: dict[str, Callable[[str], Iterator[Located]]] = {
    "hub": read_hub,
    "pydocs": read_pydocs,
    "python": read_python,
}


def _typed(task: Task, rows: Iterable[Located], bad: Bad) -> Iterator[Located]:
    """The same rows without those in which a column that is used changes its type."""
    used = {"label", *task.columns.values()}
    seen: dict[str, type] = {}
    for where, raw in rows:
        problem = None
        for name in sorted(used & raw.keys()):
            kind, value = type(raw[name]), raw[name]
            if value is not None and seen.setdefault(name, kind) is not kind:
                problem = (
                    f"{where}: column {name!r}: expected {seen[name].__name__} as in the rows "
                    f"before, found {kind.__name__} {value!r:.60}"
                )
        if problem is None:
            yield where, raw
        else:
            bad(UserError(problem))


def _check(task: Task, labels: list[str], splits: dict[str, list[Row]]) -> None:
    """Refuses splits that no strategy could train or test on."""
    if len(labels) == 1:
        raise UserError(f"data.train: every row has the label {labels[0]!r}; two are needed")
    for name, rows in splits.items():
        if not rows and not (name == "validation" and task.validation_fraction == 0):
            raise UserError(
                f"data.{name}: the split is empty; give data.{name} a source"
                + ("" if name == "train" else f" or use data.{name}_fraction=0.3")
            )
    if not labels:
        return
    for name in ("validation", "test"):
        unknown = sorted({row["label"] for row in splits[name]} - set(labels))
        if unknown:
            raise UserError(
                f"data.{name}: the label {unknown[0]!r} never stands in train; "
                f"{did_you_mean(unknown[0], labels)}"
            )
    for raw in getattr(task, "labels", {}):
        if raw not in labels:
            raise UserError(f"data.labels: no class {raw!r} in train; {did_you_mean(raw, labels)}")
