"""What a stream is cut into batches by: rows that are still text, or token rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from llmexp.data.batches import TokenRows
from llmexp.data.stream_rows import ENOUGH
from llmexp.errors import UserError
from llmexp.tasks.base import IGNORE, Encoded, Row, Task

if TYPE_CHECKING:
    from llmexp.context import Context

# Of one stretch of text that is tokenised together: whichever is reached first.
CHUNK_ROWS, CHUNK_CHARACTERS = 1000, 1_000_000


class Units(Protocol):
    """The units of a stream of rows, how long each is, and the token rows that come of them.

    A row's `number` is its place in the source, however the stream is shuffled.
    """

    def begin(self) -> None: ...

    def of(self, rows: Iterable[Row], seen: Counter[str]) -> Iterator[Row]: ...

    def size(self, unit: Row) -> int: ...

    def filler(self, unit: Row) -> Row: ...

    def made(self, units: list[Row], counts: Counter[str]) -> list[Row]: ...


def units_of(context: Context) -> Units:
    """Text units where a row of text becomes one token row, and no batch depends on its length."""
    task = context.task
    exact = task.in_blocks or task.tokens_per_batch is not None or getattr(task, "packing", False)
    return (TokenUnits if exact else TextUnits)(context)


def characters(task: Task, row: Row) -> int:
    return sum(map(len, task.texts([row])))


class _Encoder:
    """Tokenises some rows, and stops where of many none teaches anything."""

    def __init__(self, context: Context):
        self.task, self.tokenizer = context.task, context.tokenizer
        self.max_length, self.labels = context.max_length, context.examples.labels
        self.pad_id = context.pad_id
        self.begin()

    def begin(self) -> None:
        """A new pass."""
        self.read = self.kept = 0

    def encode(self, rows: list[Row]) -> Encoded:
        made = self.task.encode_some(rows, self.tokenizer, self.max_length, self.labels)
        self.read, self.kept = self.read + len(rows), self.kept + len(made.rows)
        if self.kept == 0 and self.read >= ENOUGH:
            raise UserError(
                f"data.train: none of {self.read} rows of the stream is left after tokenising "
                f"({made.counts}); raise data.max_length"
            )
        return made


class TextUnits(_Encoder):
    """Rows of text, as long as they have characters; tokenised when a batch is made of them.

    A row that tokenising drops leaves its batch smaller.
    """

    def of(self, rows: Iterable[Row], seen: Counter[str]) -> Iterator[Row]:
        for row in rows:
            yield {"number": row["number"], "row": row}

    def size(self, unit: Row) -> int:
        return characters(self.task, unit["row"])

    def filler(self, unit: Row) -> Row:
        return {"number": -1, "row": unit["row"]}

    def made(self, units: list[Row], counts: Counter[str]) -> list[Row]:
        units = [unit for unit in units if unit["number"] >= 0]
        made = self.encode([unit["row"] for unit in units])
        counts.update(_sums(made))
        rows = [{**row, "index": units[row["index"]]["number"]} for row in made.rows]
        return rows or [{"input_ids": [self.pad_id], "labels": [IGNORE], "index": -1}]


class TokenUnits(_Encoder):
    """Token rows (blocks, packs): known only when the text before them is tokenised."""

    def of(self, rows: Iterable[Row], seen: Counter[str]) -> Iterator[Row]:
        for chunk in self._chunks(rows):
            made = self.encode(chunk)
            if made.rows:
                made = self.task.packed(made, self.max_length)
            seen.update(_sums(made))
            yield from ({**row, "index": chunk[row["index"]]["number"]} for row in made.rows)

    def _chunks(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        chunk: list[Row] = []
        total = 0
        for row in rows:
            chunk.append(row)
            total += characters(self.task, row)
            if len(chunk) == CHUNK_ROWS or total >= CHUNK_CHARACTERS:
                yield chunk
                chunk, total = [], 0
        if chunk:
            yield chunk

    def size(self, unit: Row) -> int:
        return len(unit["input_ids"])

    def filler(self, unit: Row) -> Row:
        return TokenRows([unit])[-1]

    def made(self, units: list[Row], counts: Counter[str]) -> list[Row]:
        return units


def _sums(made: Encoded) -> dict[str, int]:
    """The counts that may be added up; a share may not."""
    return {name: n for name, n in made.counts.items() if isinstance(n, int)}
