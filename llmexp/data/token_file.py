"""Token rows in one memory-mapped Arrow file: any Arrow reader opens it, none of it is copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from llmexp.tasks.base import IGNORE, Row

SMALL = np.iinfo(np.int32)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_table(rows: Sequence[Row]) -> Any | None:
    """The rows as an Arrow batch; None where they are not ints and lists of ints alone."""
    import pyarrow as pa

    names = list(rows[0])
    if any(list(row) != names for row in rows):
        return None
    columns = [_column([row[name] for row in rows]) for name in names]
    if any(column is None for column in columns):
        return None
    return pa.RecordBatch.from_arrays(columns, names=names)


def _column(values: list[Any]) -> Any | None:
    import pyarrow as pa

    if all(type(value) is int for value in values):
        return _array(_numbers(values))
    if not all(isinstance(value, list) for value in values):
        return None
    flat = [number for value in values for number in value]
    if not all(type(number) is int for number in flat):
        return None
    offsets = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return pa.LargeListArray.from_arrays(_array(offsets), _array(_numbers(flat)))


def _array(numbers: Any) -> Any:
    """As `pa.array`, which imports pandas to ask whether the numbers are its own."""
    import pyarrow as pa

    kind = pa.int32() if numbers.dtype == np.int32 else pa.int64()
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def _numbers(values: list[int]) -> Any:
    made = np.array(values, dtype=np.int64)
    fits = not len(made) or (made.min() >= SMALL.min and made.max() <= SMALL.max)
    return made.astype(np.int32) if fits else made


def _plain(array: Any) -> Any:
    """As `to_numpy`, which imports pandas; of integers without nulls, and nothing is copied."""
    kind = np.dtype(str(array.type))
    if not len(array):
        return np.empty(0, kind)
    return np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]


def write(table: Any, path: Path) -> None:
    """The table as an Arrow IPC file."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_batch(table)


class TokenFile(Sequence[Row]):
    """The rows of such a file; each is made when it is asked for."""

    def __init__(self, path: Path):
        import pyarrow as pa

        self.path = path
        table = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self.size: int = table.num_rows
        self.columns: dict[str, tuple[Any, Any]] = {}
        for name, column in zip(table.schema.names, table.columns, strict=True):
            nested = isinstance(column, pa.LargeListArray)
            starts = _plain(column.offsets) if nested else None
            values = column.values if nested else column
            self.columns[name] = (starts, _plain(values))

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        return {
            name: int(values[at])
            if starts is None
            else values[starts[at] : starts[at + 1]].tolist()
            for name, (starts, values) in self.columns.items()
        }

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the file itself: nothing is sent to it.
        return TokenFile, (self.path,)

    def lengths(self) -> list[int]:
        """Tokens of each row, without reading them."""
        return np.diff(self.columns["input_ids"][0]).tolist()

    def supervised(self) -> int | None:
        """Learned positions; None where a row has one label."""
        starts, labels = self.columns["labels"]
        return None if starts is None else int((labels != IGNORE).sum())
