"""Each split as a run would hold it: what overflow does to its rows, and what is left of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from llmexp.context import Context
from llmexp.tasks.base import Encoded, Row

# Rows that are tokenised for statistics; a template takes about half a millisecond a row.
SAMPLE = 1000
# A split of at most so many rows and characters is tokenised whole: it takes seconds.
MOST_ROWS, MOST_CHARACTERS = 12_000, 4_000_000
WHOLE = 10**9
SHOWN = 60


def drawn(total: int) -> list[int]:
    """The numbers of the rows of a sample, in order."""
    return sorted(random.Random(0).sample(range(total), min(SAMPLE, total)))  # noqa: S311


class Split:
    """The token rows of a split: of all its rows, or of a sample where these are too many."""

    names: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    def __init__(self, context: Context, name: str):
        self.context, self.name, self.task = context, name, context.task
        overflow = getattr(self.task, "overflow", None)
        self.refuses = overflow == "error"
        if self.refuses:
            # Which rows the run would stop at is said here, of all of them.
            self.task = replace(self.task, overflow="truncate")  # type: ignore[call-arg]
        rows: list[Row] = getattr(context.examples, name)
        self.total = len(rows)
        self.complete = not self._is_streamed() and self._few(rows)
        self.numbers = list(range(len(rows))) if self.complete else drawn(len(rows))
        self.rows = [rows[i] for i in self.numbers]
        self.long: list[int] = []
        """The numbers of the rows that are longer than `max_length`, in the split."""
        self.needed = 0
        """Tokens of the longest row before anything is cut."""
        self.whole: list[Row] = []
        """Its token rows before anything is cut, where rows can be too long."""
        self.encoded = self._encoded()
        """At `max_length`, each row for itself."""
        self.left = self._packed()

    def _is_streamed(self) -> bool:
        return self.name == "train" and self.context.examples.stream is not None

    def _few(self, rows: list[Row]) -> bool:
        return len(rows) <= MOST_ROWS and sum(map(len, self.task.texts(rows))) <= MOST_CHARACTERS

    def _encoded(self) -> Encoded:
        longest = self.context.max_length
        if self.task.in_blocks:
            return self._encode(self.rows, longest)
        whole = self._encode(self.rows, WHOLE)
        self.whole = list(whole.rows)
        self.needed = max((len(row["input_ids"]) for row in self.whole), default=0)
        long = [row["index"] for row in self.whole if len(row["input_ids"]) > longest]
        self.long = [self.numbers[i] for i in long]
        cut = self._encode([self.rows[i] for i in long], longest)
        kept = [row for row in self.whole if len(row["input_ids"]) <= longest]
        kept += [{**row, "index": long[row["index"]]} for row in cut.rows]
        counts = Counter(whole.counts) + Counter(cut.counts)
        return Encoded(sorted(kept, key=lambda row: row["index"]), dict(counts))

    def _packed(self) -> Encoded:
        """What the run reads: packs, where it packs."""
        made = self.encoded
        packs = self.name == "train" and made.rows
        return self.task.packed(made, self.context.max_length) if packs else made

    def _encode(self, rows: Sequence[Row], longest: int) -> Encoded:
        if not rows:
            return Encoded([])
        labels = self.context.examples.labels
        return self.task.encode_some(list(rows), self.context.tokenizer, longest, labels)

    def quoted(self, number: int) -> str:
        """How a row of the split begins."""
        row = self.rows[self.numbers.index(number)]
        text = " ".join(next(iter(self.task.texts([row])), "").split())
        return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")

    def longest(self) -> int:
        """Tokens of the longest row that is left."""
        return max(self.left.lengths(), default=0)

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.total,
            "looked_at": len(self.rows),
            "too_long": len(self.long),
            "left": len(self.left.rows),
            "longest": self.longest(),
            "counts": self.left.counts,
        }
