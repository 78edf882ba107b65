"""What a run answered on each test example, from `predictions.jsonl` and `losses.jsonl`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from llmexp.jobs.events import events

Row = dict[str, Any]

PREDICTIONS = "predictions.jsonl"
LOSSES = "losses.jsonl"


def answers(folder: str, file: str = PREDICTIONS) -> dict[Any, Row]:
    """The rows of a file by their key, in order of the test set; {} where there is no file."""
    rows = events(Path(folder) / file)
    documents = Counter(row["index"] for row in rows)
    found: dict[Any, Row] = {}
    seen: Counter[Any] = Counter()
    for row in rows:
        key = row["index"]
        if len(documents) < FEW and documents[key] > 1:
            # A few long documents: their blocks are the examples, in the order they were read.
            seen[key] += 1
            key = (key, seen[key])
        found[key] = _added(found.get(key), row)
    return found


# With fewer documents than this, blocks of them are drawn again and not they.
FEW = 30


def _added(one: Row | None, other: Row) -> Row:
    if one is None:
        return other
    return {k: v if k == "index" else one[k] + v for k, v in other.items() if k in one}
