"""The sources read once more, row by row: what is bad, empty or suspicious, and where."""

from __future__ import annotations

import codecs
import re
from itertools import islice
from pathlib import Path
from typing import Any

from llmexp.data.sources import canonical_rows, is_blank
from llmexp.data.stream_examples import HEAD_ROWS
from llmexp.errors import UserError
from llmexp.tasks.base import Row, Task

SHOWN = 5
# UTF-8 read as latin-1 or cp1252; the mark of bytes that were thrown away.
MOJIBAKE = re.compile("[ÃÂ][\u0080-\u00bf]|â€|\ufffd")
# Lines of a tab-separated file inside one field: a quotation mark was read as one.
SWALLOWED = re.compile(r"\n[^\n\t]*\t")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


class Source:
    """One locator, read to its end whatever is in it; of a stream the first rows."""

    def __init__(self, task: Task, split: str, locator: str):
        self.split, self.locator = split, locator
        self.rows = 0
        self.bad: list[str] = []
        self.empty: list[str] = []
        self.suspicious: dict[str, list[str]] = {}
        separated = task.separator is not None
        most = HEAD_ROWS if task.streaming and split == "train" else None
        for where, _, row in islice(canonical_rows(task, locator, self._bad), most):
            self.rows += 1
            if is_blank(row) and not separated:
                self.empty.append(where)
            else:
                self._look(task, where, row)

    def _bad(self, error: UserError) -> None:
        self.bad.append(str(error))

    def _look(self, task: Task, where: str, row: Row) -> None:
        for text in task.texts([row]):
            for kind, sign in SIGNS.items():
                match = sign.search(text)
                if match is not None:
                    found = self.suspicious.setdefault(kind, [])
                    place = _line(where, text, match.start())
                    found += [place] if place not in found[-1:] else []

    def too_many(self, task: Task) -> bool:
        """Whether a run would stop at the bad rows of this source."""
        total, ceiling = self.rows + len(self.bad), task.max_bad_rows
        most = ceiling if isinstance(ceiling, int) else ceiling * total
        return bool(self.bad) and (task.on_bad_row == "raise" or len(self.bad) > most)

    def as_json(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "source": self.locator,
            "rows": self.rows,
            "bad": {"count": len(self.bad), "first": self.bad[:SHOWN]},
            "empty": {"count": len(self.empty), "first": self.empty[:SHOWN]},
            "suspicious": {
                kind: {"count": len(places), "first": places[:SHOWN]}
                for kind, places in self.suspicious.items()
            },
        }


def _line(where: str, text: str, at: int) -> str:
    """A file that is one document has no line of its own: that of the character is told."""
    return f"{where}:{text.count(chr(10), 0, at) + 1}" if Path(where).is_file() else where


MISREAD, SWALLOWING = "characters of a wrong encoding", "a field that swallowed lines"
SIGNS = {MISREAD: MOJIBAKE, "control characters": CONTROL, SWALLOWING: SWALLOWED}


def mend(task: Task, kind: str, locator: str) -> str | None:
    """The override that mends a sign; None where the file was read as it is written."""
    path = Path(locator)
    ending = path.suffix.lower() if path.is_file() else ""
    tabs = (task.delimiter or {".tsv": "\t"}.get(ending, "")).replace("\\t", "\t") == "\t"
    if kind == SWALLOWING and ending in (".csv", ".tsv") and tabs and task.quoting != "none":
        return "data.quoting=none"
    if kind == MISREAD and ending and not is_utf8(task.encoding) and _reads_as_utf8(path):
        return "data.encoding=utf-8"
    return None


def _reads_as_utf8(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            for _ in file:
                pass
    except UnicodeDecodeError:
        return False
    return True


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"


def read_sources(task: Task) -> list[Source]:
    splits = {name: getattr(task, name) for name in ("train", "validation", "test")}
    return [Source(task, name, where) for name, where in splits.items() if where is not None]
