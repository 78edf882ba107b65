"""Rows as a person reads them: learned tokens marked, special tokens visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from llmexp.context import Context
from llmexp.doctor.tokens import learned_tokens, sequence
from llmexp.tasks.base import IGNORE, Row

SHOWN = 10
# Characters of a run of tokens that are shown; what is learned is shown longer.
PLAIN, LEARNED = 90, 160


@dataclass(frozen=True)
class Piece:
    """A run of tokens that are alike: learned or not, special or not."""

    text: str
    learned: bool
    special: bool


def pieces(row: Row, context: Context) -> list[Piece]:
    """The runs of one encoded row, every token once."""
    tokenizer = context.tokenizer
    known = {int(i) for i in tokenizer.all_special_ids}
    known |= {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}

    def kind(item: tuple[int, bool]) -> tuple[bool, bool]:
        return item[1], item[0] in known

    found = []
    for (learned, special), run in groupby(sequence(row), key=kind):
        ids = [token for token, _ in run]
        if special:
            text = "".join(map(str, tokenizer.convert_ids_to_tokens(ids)))
        else:
            text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        found.append(Piece(text, learned, special))
    return found


def label_of(row: Row, context: Context) -> str | None:
    """The class a row is to be given, where it is given one."""
    label = row["labels"]
    if isinstance(label, list):
        return None
    return context.examples.labels[label] if label != IGNORE else "(no label)"


def shown(rows: Sequence[Row], context: Context) -> list[dict[str, Any]]:
    """Rows from all over the sample as runs of text."""
    step = max(1, len(rows) // SHOWN)
    return [
        {
            "tokens": len(row["input_ids"]),
            "learned": learned_tokens(row),
            "label": label_of(row, context),
            "pieces": [vars(piece) for piece in pieces(row, context)],
        }
        for row in rows[step // 2 :: step][:SHOWN]
    ]


def shortened(piece: dict[str, Any]) -> str:
    """One line of a run: its ends, where it is long."""
    text = piece["text"].replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥")
    most = LEARNED if piece["learned"] else PLAIN
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[-most // 3 :]}"
