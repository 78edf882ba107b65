"""The distinct rows of a split: what a frozen network has to compute, in batches without waste."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from llmexp.tasks.base import Row

# Tokens of a batch, padding included: on a CPU enough to keep its matrix units busy and to stay
# near its caches, on a GPU enough to fill it.
TOKENS = {"cpu": 4096}
TOKENS_GPU = 65536


def inputs(row: Row) -> tuple[tuple[int, ...], ...]:
    """Everything of a row that a network reads: its lists of token length, but not the labels."""
    n = len(row["input_ids"])
    return tuple(
        tuple(value)
        for name, value in sorted(row.items())
        if name != "labels" and isinstance(value, list) and len(value) == n
    )


def cut(row: Row, at: int) -> Row:
    """The row with one token only: the first (0) or the last (-1)."""
    n = len(row["input_ids"])
    return {k: [v[at]] if isinstance(v, list) and len(v) == n else v for k, v in row.items()}


class Distinct:
    """Rows with equal inputs, once each, numbered in the order in which they first come."""

    def __init__(self, rows: Iterable[Row]):
        self.numbers: dict[Any, int] = {}
        self.rows: list[Row] = []
        for row in rows:
            key = inputs(row)
            if key not in self.numbers:
                self.numbers[key] = len(self.rows)
                self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def number(self, row: Row) -> int:
        return self.numbers[inputs(row)]

    def fingerprint(self) -> str:
        """A hash of the token ids of all rows, in order."""
        found = hashlib.sha256()
        for key in self.numbers:
            for values in key:
                found.update(array("q", (len(values), *values)).tobytes())
        return found.hexdigest()

    def batches(self, device: str) -> Iterator[list[int]]:
        """Numbers of rows, long rows first and together, at most so many padded tokens each."""
        budget = TOKENS.get(device, TOKENS_GPU)
        order = sorted(range(len(self)), key=lambda i: -len(self.rows[i]["input_ids"]))
        start = 0
        while start < len(order):
            size = max(1, budget // len(self.rows[order[start]]["input_ids"]))
            yield order[start : start + size]
            start += size
