"""The train rows of a corpus that may be larger than memory: read anew for each pass."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from llmexp.data.bad_rows import BadRows
from llmexp.data.splits import content_key
from llmexp.data.stream_files import parted
from llmexp.errors import UserError
from llmexp.tasks.base import Row, Task

# Rows from which a share of bad ones is judged before the source has ended.
ENOUGH = 1000


@dataclass(frozen=True)
class RowStream:
    """Canonical rows of one source in its order, of which only the one that is yielded is held."""

    task: Task
    locator: str
    skip: int = 0
    """The first rows, which are held out."""
    limit: int | None = None
    leaked: frozenset[str] = frozenset()
    """Contents that are left out, because they validate or test."""

    def rows(self, counts: Counter[str]) -> Iterator[Row]:
        """One pass; `counts` is kept up to date with the rows that are left out."""
        rows = self._canonical(counts)
        if self.task.separator is not None:
            rows = self._parted(rows)
        return islice(self._kept(islice(rows, self.skip, None), counts), self.limit)

    def _canonical(self, counts: Counter[str]) -> Iterator[Row]:
        from llmexp.data.sources import canonical_rows, is_blank

        bad, good = BadRows(self.task, self.locator), 0

        def judged(error: UserError) -> None:
            bad(error)
            counts["bad_rows"] += 1
            if bad.count + good >= ENOUGH:
                bad.close(good)

        for _, _, row in canonical_rows(self.task, self.locator, judged):
            good += 1
            # Between two separators a blank line may be part of a text.
            if self.task.separator is not None or not is_blank(row):
                yield row
            else:
                counts["empty_rows"] += 1
        bad.close(good)
        if not good:
            raise UserError(f"data: {self.locator} has no rows that can be used")

    def _parted(self, rows: Iterator[Row]) -> Iterator[Row]:
        first = next(rows, None)
        if first is None or set(first) != {"text"}:
            return iter([] if first is None else _chained(first, rows))
        return parted(_chained(first, rows), self.task.separator or "")

    def _kept(self, rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
        for row in rows:
            if self.leaked and content_key(row) in self.leaked:
                counts["overlapping_rows"] += 1
            else:
                yield row


def _chained(first: Row, rows: Iterable[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def numbered(rows: Iterable[Row]) -> Iterator[Row]:
    """Each row with its place in the source as `number`, by which messages name it."""
    return ({**row, "number": number} for number, row in enumerate(rows))


def shuffled(rows: Iterable[Row], size: int, seed: str) -> Iterator[Row]:
    """Every row once; each is drawn from a buffer of `size` rows that the source fills up again.

    The same rows, size and seed give the same order.
    """
    draw = random.Random(seed)  # noqa: S311
    buffer: list[Row] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
            continue
        at = draw.randrange(size)
        yield buffer[at]
        buffer[at] = row
    draw.shuffle(buffer)
    yield from buffer
