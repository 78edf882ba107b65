"""What the network will see: tokens of a sample of rows, which of them are learned, how long."""

from __future__ import annotations

from collections import Counter
from typing import Any

from llmexp.context import Context
from llmexp.data.token_cache import kept_tokens
from llmexp.doctor.splits import WHOLE, Split, drawn
from llmexp.tasks.base import IGNORE, Encoded, Row

BINS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, WHOLE)

# Rows whose prompt is rendered too.
ASKED = 200


class Sample:
    """Train rows as tokens, whole and at `max_length`: all that the split has looked at.

    Of text that is cut into blocks, a sample of it: the documents are tokenised one by one.
    """

    def __init__(self, context: Context, split: Split):
        self.context, self.task = context, split.task
        rows = context.examples.train
        self.total = len(rows)
        if self.task.in_blocks:
            self.rows = [rows[i] for i in drawn(len(rows))]
            self.whole = [row for one in self.rows for row in self._encode([one], WHOLE).rows]
            self.encoded = self._encode(self.rows, context.max_length)
            self.masked = 0
        else:
            self.rows, self.whole, self.encoded = split.rows, split.whole, split.encoded
            self.masked = len(self.rows) - len(self.whole)
        self.kept = kept_tokens(context, rows, "train")

    def _encode(self, rows: list[Row], longest: int) -> Encoded:
        context = self.context
        return self.task.encode_some(rows, context.tokenizer, longest, context.examples.labels)

    def lengths(self) -> list[int]:
        return sorted(len(row["input_ids"]) for row in self.whole)

    def too_long(self) -> int:
        return sum(n > self.context.max_length for n in self.lengths())

    def histogram(self) -> list[dict[str, int]]:
        """Rows up to each length, from the first bin that has any to the last."""
        lengths = self.lengths()
        counts = [
            sum(low < n <= high for n in lengths)
            for low, high in zip((0, *BINS), BINS, strict=False)
        ]
        used = [i for i, count in enumerate(counts) if count]
        return [{"up_to": BINS[i], "rows": counts[i]} for i in range(used[0], used[-1] + 1)]

    def as_json(self) -> dict[str, Any]:
        lengths, task = self.lengths(), self.task
        learned = [learned_tokens(row) for row in self.encoded.rows]
        tokens = sum(len(row["input_ids"]) for row in self.encoded.rows)
        return {
            "sample": len(self.rows),
            "rows": self.total,
            "max_length": self.context.max_length,
            "in_blocks": task.in_blocks,
            "encoded": len(self.encoded.rows),
            "tokens": tokens,
            "learned_tokens": sum(learned),
            "learned_share": round(sum(learned) / max(1, tokens), 4),
            "lengths": {"median": lengths[len(lengths) // 2], "longest": lengths[-1]},
            "histogram": self.histogram(),
            "too_long": 0 if task.in_blocks else self.too_long(),
            "counts": self.encoded.counts,
            "fully_masked": self.masked,
            "marks": self.marks(),
            "asked": self.asked(),
            "kept": None if self.kept is None else self.kept.facts(),
            "packing": self.packing(),
        }

    def packing(self) -> dict[str, Any] | None:
        """How many rows go into how many packs and how full those are; None without packing."""
        longest = self.context.max_length
        if self.kept is not None:
            counts = self.kept.counts
        elif self.encoded.rows:
            counts = self.task.packed(self.encoded, longest).counts
        else:
            return None
        names = ("packed", "packs", "fill")
        return {name: counts[name] for name in names} if "packs" in counts else None

    def asked(self) -> dict[str, int]:
        """Of a few rows, how many are asked for by other tokens than they are trained behind."""
        few = self.rows[:: -(-len(self.rows) // ASKED)]
        return {
            "rows": len(few),
            "otherwise": self.task.asked_otherwise(few, self.context.tokenizer),
        }

    def marks(self) -> dict[str, Any]:
        """How often BOS stands in a row, and in how many rows an end is learned."""
        tokenizer = self.context.tokenizer
        rows = [sequence(row) for row in self.encoded.rows]
        ends = set(self.task.ends(tokenizer))
        bos = Counter(sum(token == tokenizer.bos_token_id for token, _ in row) for row in rows)
        return {
            "bos": tokenizer.bos_token,
            "bos_per_row": {str(n): count for n, count in sorted(bos.items())},
            "doubled_bos": sum(_doubled(row, tokenizer.bos_token_id) for row in rows),
            "ends": [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(ends)],
            "end_learned": sum(any(t in ends and on for t, on in row) for row in rows),
            "end_present": sum(any(t in ends for t, _ in row) for row in rows),
        }


def _doubled(row: list[tuple[int, bool]], bos: int | None) -> bool:
    return bos is not None and len(row) > 1 and row[0][0] == row[1][0] == bos


def learned_tokens(row: Row) -> int:
    labels = row["labels"]
    return sum(n != IGNORE for n in labels) if isinstance(labels, list) else int(labels != IGNORE)


def sequence(row: Row) -> list[tuple[int, bool]]:
    """(token, learned) of a row in reading order; a label is the token behind its position."""
    ids, labels = row["input_ids"], row["labels"]
    if not isinstance(labels, list):
        return [(token, False) for token in ids]
    following = [*ids[1:], None]
    found = [(ids[0], False)]
    for token, label in zip(following, labels, strict=True):
        if label != IGNORE:
            found.append((label, True))
        elif token is not None:
            found.append((token, False))
    return found
