"""Text files a line at a time, so that a file may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmexp.data.encodings import lost, readable_as
from llmexp.errors import UserError
from llmexp.tasks.base import Row, Task

SAMPLES, BLOCK = 256, 4096


def text_lines(path: Path, task: Task, newline: str = "\n") -> Iterator[str]:
    """Lines with their ends; with `newline=""` every kind of end is one, and stays as it is.

    Bytes that do not fit are left as surrogates where bad rows are skipped, else they are raised.
    """
    # As in `lines.decode`: a byte-order mark is no part of the first column's name.
    encoding = "utf-8-sig" if task.encoding.lower() in ("utf-8", "utf8") else task.encoding
    with path.open(encoding=encoding, errors="surrogateescape", newline=newline) as file:
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                if task.on_bad_row == "raise" and lost(line) is not None:
                    raise _undecoded(path, number, line, task)
                yield line
        except UnicodeError as error:
            raise UserError(
                f"{path}:{number + 1}: not {task.encoding} ({error}); name another data.encoding"
            ) from None


def sampled(path: Path) -> str:
    """A hash of a file's size and of blocks all over it: for a file too large to be read twice."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, size - BLOCK) * number // (SAMPLES - 1))
            found.update(file.read(BLOCK))
    return found.hexdigest()


def _undecoded(path: Path, number: int, line: str, task: Task) -> UserError:
    data = line.encode(task.encoding, "surrogateescape")
    return UserError(
        f"{path}:{number}: byte {lost(line):#04x} is not {task.encoding}; "
        f"data.encoding={readable_as(data)} reads this line"
    )


def parted(rows: Iterable[Row], separator: str) -> Iterator[Row]:
    """Rows that are pieces of one text, parted at the separator; what is between two is held."""
    mark = separator.replace("\\n", "\n")
    held = ""
    for row in rows:
        *done, held = (held + row["text"]).split(mark)
        yield from ({"text": text} for text in done if text.strip())
    if held.strip():
        yield {"text": held}
