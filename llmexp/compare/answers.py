"""What a run answered on each test example, from `predictions.jsonl` and `losses.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PREDICTIONS = "predictions.jsonl"
LOSSES = "losses.jsonl"


def answers(folder: str, file: str = PREDICTIONS) -> dict[Any, Row]:
    """The rows of a file by their key, in order of the test set; {} where there is no file."""
    path = Path(folder) / file
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    found: dict[Any, Row] = {}
    for row in rows:
        # A document may be cut into several rows: they are one example, and their numbers add up.
        found[row["index"]] = _added(found.get(row["index"]), row)
    return dict(sorted(found.items()))


def _added(one: Row | None, other: Row) -> Row:
    if one is None:
        return other
    return {k: v if k == "index" else one[k] + v for k, v in other.items() if k in one}
