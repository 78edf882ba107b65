"""Stored states of the rows of a split, and batches that carry them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from torch import Tensor, nn

from llmexp.cache.distinct import Distinct, cut
from llmexp.tasks.base import Batch, Row

Collate = Callable[[list[Row]], Batch]


class Stored:
    """States of the distinct rows of one split, end to end: real tokens only."""

    def __init__(self, distinct: Distinct, states: Tensor, at: int | None):
        self.distinct, self.states, self.at = distinct, states, at
        sizes = [1 if at is not None else len(row["input_ids"]) for row in distinct.rows]
        self.starts = [0, *accumulate(sizes)]

    def batch(self, rows: list[Row]) -> Tensor:
        """Right-padded states [B, T, H] of these rows; T is 1 where one position is kept."""
        numbers = [self.distinct.number(row) for row in rows]
        if self.at is not None:
            return self.states[numbers][:, None]
        parts = [self.states[self.starts[i] : self.starts[i + 1]] for i in numbers]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True)


class CollateStored:
    """The task's batch, cut to the position that is kept, with the stored states."""

    def __init__(self, collate: Collate, stored: Stored):
        self.plain, self.stored = collate, stored

    def __call__(self, rows: list[Row]) -> Batch:
        at = self.stored.at
        batch = self.plain(rows if at is None else [cut(row, at) for row in rows])
        batch["tokens"] = sum(len(row["input_ids"]) for row in rows if row["index"] >= 0)
        batch["hidden"] = self.stored.batch(rows)
        return batch
