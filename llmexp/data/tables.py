"""Rows from tables: csv, tsv and parquet."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llmexp.data.bad_rows import Bad
from llmexp.data.lines import Located, decode, shown, sound
from llmexp.data.stream_files import text_lines
from llmexp.errors import UserError
from llmexp.tasks.base import Task

# Rows of a parquet file that are made Python objects together.
CHUNK = 1024
# Bytes of each of its columns that are read at once; a row group may be a whole file.
BUFFER = 1 << 20


def csv_rows(path: Path, task: Task, bad: Bad) -> Iterator[Located]:
    """One row from each record; a field may span lines."""
    delimiter = task.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    quoting: Any = csv.QUOTE_NONE if task.quoting == "none" else csv.QUOTE_MINIMAL
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 131,072 characters
    # newline="": line ends inside quoted fields are the csv module's business.
    lines = _Lines(
        text_lines(path, task, newline="")
        if task.streaming
        else io.StringIO(decode(path, task, lenient=True), newline="")
    )
    reader = csv.reader(
        lines,
        delimiter=delimiter.replace("\\t", "\t"),
        quoting=quoting,
        strict=True,
    )
    names = None if task.header else list(task.names)
    line = 1
    while True:
        where = f"{path}:{line}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            said = UserError(
                f"{where}: not valid csv ({error}): {shown(lines.last.rstrip())}; if quotes mean "
                "nothing in this file, set data.quoting=none"
            )
            # A quote that nothing closes swallowed all rows behind it: too many to be left out.
            if names is None or "unexpected end of data" in str(error):
                raise said from None
            bad(said)
            line = reader.line_num + 1
            continue
        if fields is None:
            return
        line = reader.line_num + 1
        if fields and names is None:
            names = _header(where, fields)
        elif fields and names is not None:
            if not sound(where, " | ".join(fields), task, bad):
                continue
            if len(fields) == len(names):
                yield where, dict(zip(names, fields, strict=True))
            else:
                bad(_miscounted(where, names, fields))


class _Lines:
    """The lines of a file; the last that was asked for is remembered, to be shown."""

    def __init__(self, lines: Iterable[str]):
        self.lines = iter(lines)
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = next(self.lines)
        return self.last


def _header(where: str, fields: list[str]) -> list[str]:
    twice = sorted({name for name in fields if fields.count(name) > 1})
    if twice:
        raise UserError(f"{where}: the header names {twice[0]!r} twice")
    return fields


def _miscounted(where: str, names: list[str], fields: list[str]) -> UserError:
    return UserError(
        f"{where}: found {len(fields)} fields where {len(names)} columns are named "
        f"({', '.join(names[:8])}): {shown(' | '.join(fields))}"
    )


def parquet_rows(path: Path, task: Task, bad: Bad) -> Iterator[Located]:
    """One row from each row of a parquet file, a few of which are in memory at a time."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        # By default pyarrow 26 holds a whole row group.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
            for batch in file.iter_batches(batch_size=CHUNK):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable parquet file: {reason}") from None
