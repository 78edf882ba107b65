"""What the page shows of single examples, labels and lengths."""

from __future__ import annotations

from typing import Any

from llmexp.compare.report.examples import MOST_LABELS, Examples


def errors(found: Examples) -> dict[str, Any]:
    """Everything below *Where they go wrong*."""
    small = found.classified and len(found.labels) <= MOST_LABELS
    return {
        "metric": found.metric.removeprefix("test/"),
        "arms": found.arms,
        "hardest": found.hardest(),
        "disagreements": found.disagreements(),
        "length": _shares(found.arms, *found.by_length()),
        "label": _shares(found.arms, *found.by_label()) if found.classified else None,
        "matrices": [_matrix(found, a) for a in range(len(found.arms))] if small else [],
        "labels": found.labels,
        "confused": [
            (name, pairs) for a, name in enumerate(found.arms) if (pairs := found.confused(a))
        ]
        if found.classified
        else [],
    }


def _shares(arms: list[str], columns: list[str], values: list[list[float]]) -> dict[str, Any]:
    """A table whose cells are shaded by how good they are."""
    rows = [
        {"name": name, "cells": [(f"{100 * v:.1f}", round(100 * v)) for v in row]}
        for name, row in zip(arms, values, strict=True)
    ]
    return {"columns": columns, "rows": rows}


def _matrix(found: Examples, arm: int) -> dict[str, Any]:
    """Counts, and the share of the reference's row that shades a cell."""
    counts = found.confusion(arm)
    rows = []
    for i, row in enumerate(counts):
        total = sum(row) or 1
        cells = [(n, round(100 * n / total), i == j) for j, n in enumerate(row)]
        rows.append({"label": found.labels[i], "cells": cells})
    return {"arm": found.arms[arm], "rows": rows}
