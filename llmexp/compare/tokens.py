"""Whether numbers per token compare: only where the same rows were the same number of tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

from llmexp.compare.answers import LOSSES, answers

Result = dict[str, Any]

PER_TOKEN = ("loss", "perplexity", "token_accuracy")


def per_token(metric: str) -> bool:
    """Whether a metric of text is a mean over tokens; of labels there is no other loss."""
    return metric.rpartition("/")[2] in PER_TOKEN


def vocabularies(runs: list[Result]) -> list[list[Result]]:
    """Runs apart by how many tokens each test row was to them; by model where none was counted."""
    if any("test/accuracy" in run.get("metrics", {}) for run in runs):
        return [runs]
    counted = [_counts(run) for run in runs]
    # A run without counts reads as others of its model do.
    known = {run.get("model"): c for run, c in zip(runs, counted, strict=True) if c is not None}
    apart: dict[Any, list[Result]] = {}
    for run, counts in zip(runs, counted, strict=True):
        model = run.get("model")
        apart.setdefault(counts or known.get(model) or model, []).append(run)
    return list(apart.values())


def _counts(run: Result) -> frozenset[tuple[Any, int]] | None:
    rows = answers(str(run["folder"]), LOSSES) if "folder" in run else {}
    found: Counter[Any] = Counter()
    for row in rows.values():
        if "tokens" not in row:
            return None
        found[row["index"]] += row["tokens"]
    return frozenset(found.items()) or None
