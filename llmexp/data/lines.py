"""Rows from text: lines, JSON and whole documents, with a sentence where bytes do not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmexp.data.bad_rows import Bad
from llmexp.data.encodings import lost, readable_as
from llmexp.data.stream_files import text_lines
from llmexp.errors import UserError
from llmexp.tasks.base import Task

RawRow = dict[str, Any]
Located = tuple[str, RawRow]


def decode(path: Path, task: Task, lenient: bool = False) -> str:
    """The text of a file, or a sentence that names line, byte and the encoding that would work.

    `lenient` leaves bytes that do not fit as surrogates where bad rows are skipped: `sound` then
    finds the rows they are in.
    """
    # utf-8-sig also reads files without a byte-order mark; plain utf-8 would leave the mark in
    # the name of the first column.
    encoding = "utf-8-sig" if task.encoding.lower() in ("utf-8", "utf8") else task.encoding
    data = path.read_bytes()
    try:
        skips = lenient and task.on_bad_row == "skip"
        return data.decode(encoding, "surrogateescape" if skips else "strict")
    except LookupError:
        raise UserError(f"data.encoding: Python knows no encoding {task.encoding!r}") from None
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = data.count(b"\n", 0, start) + 1
        raise UserError(
            f"{path}:{line}: byte {data[start]:#04x} after {data[max(0, start - 20) : start]!r} "
            f"is not {task.encoding}; data.encoding={readable_as(data)} reads the whole file"
        ) from None


def sound(where: str, text: str, task: Task, bad: Bad) -> bool:
    """Whether a line or field was decoded; a row of it that was not is bad."""
    byte = lost(text)
    if byte is not None:
        bad(UserError(f"{where}: byte {byte:#04x} is not {task.encoding}: {shown(text)}"))
    return byte is None


def _lines(path: Path, task: Task, bad: Bad) -> Iterator[tuple[str, str]]:
    """(where, line) of every line that is not blank; only a newline ends a line."""
    whole = None if task.streaming else decode(path, task, lenient=True).split("\n")
    for number, line in enumerate(text_lines(path, task) if whole is None else whole, start=1):
        if line.strip() and sound(f"{path}:{number}", line, task, bad):
            yield f"{path}:{number}", line.removesuffix("\n").removesuffix("\r")


def shown(value: Any) -> str:
    """The first bytes of a bad row, fit for one line."""
    text = value if isinstance(value, str) else repr(value)
    return repr(text[:60] + "..." if len(text) > 60 else text)


def pattern_rows(path: Path, task: Task, bad: Bad) -> Iterator[Located]:
    """One row from each line, named by the groups of `data.pattern`."""
    pattern = re.compile(task.pattern or "")
    for where, line in _lines(path, task, bad):
        match = pattern.fullmatch(line)
        if match is None:
            bad(UserError(f"{where}: data.pattern does not match this line: {shown(line)}"))
            continue
        yield where, match.groupdict()


def _object(where: str, value: Any, bad: Bad) -> Iterator[Located]:
    if isinstance(value, dict):
        yield where, value
    else:
        bad(UserError(f"{where}: expected an object with named fields, found {shown(value)}"))


def jsonl_rows(path: Path, task: Task, bad: Bad) -> Iterator[Located]:
    """One row from each line, a JSON object."""
    for where, line in _lines(path, task, bad):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            bad(UserError(f"{where}: not valid JSON ({reason}): {shown(line)}"))
            continue
        yield from _object(where, value, bad)


def json_rows(path: Path, task: Task, bad: Bad) -> Iterator[Located]:
    """The rows of one JSON list."""
    text = decode(path, task)
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        hint = "; is this one object a line? then call it .jsonl" if "Extra" in error.msg else ""
        raise UserError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}): {shown(line)}{hint}"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: not valid JSON (nested too deeply)") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, found {shown(rows)}")
    for number, value in enumerate(rows, start=1):
        yield from _object(f"{path}: row {number}", value, bad)


def document(path: Path, task: Task, bad: Bad) -> Iterator[Located]:
    """The whole file as one text, or its lines; `data.separator` parts it once it is canonical."""
    if task.streaming:
        for number, line in enumerate(text_lines(path, task), start=1):
            text = f"{line[:-2]}\n" if line.endswith("\r\n") else line
            yield f"{path}:{number}", {"text": text}
        return
    # One kind of line end, so that the same text has the same fingerprint on every system.
    text = decode(path, task).replace("\r\n", "\n")
    if text.strip():
        yield str(path), {"text": text}
