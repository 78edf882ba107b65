"""Learning curves, read from the `metrics.jsonl` of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmexp.jobs.events import events

Points = list[tuple[float, float]]

# More points than this are not seen, and make the page large.
MOST = 100


def curve(run: dict[str, Any], key: str) -> Points:
    """(step, value) of one key, thinned by averaging neighbours; [] where nothing was logged."""
    path = Path(str(run.get("folder", ""))) / "metrics.jsonl"
    if "folder" not in run:
        return []
    told = events(path)
    points = [(float(e["step"]), float(e[key])) for e in told if e.get(key) is not None]
    return thinned(points)


def thinned(points: Points) -> Points:
    """At most `MOST` points, each the mean of as many neighbours."""
    size = -(-len(points) // MOST)
    if size <= 1:
        return points
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(p[-1][0], sum(y for _, y in p) / len(p)) for p in parts]
