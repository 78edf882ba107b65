"""The bars as a picture: how far each measured value lies from what it must reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contest.bars import written

MET, MISSED = "#2a7f62", "#c1443c"


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """One bar for each line that has a limit, as a multiple of it, best side right."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "llmexp"
    from matplotlib import pyplot as plt

    shown = [line for line in found if line["bar"] and line["value"] > 0]
    reached = [headroom(line) for line in shown]
    figure, axes = plt.subplots(figsize=(9.0, 0.9 + 0.27 * len(shown)))
    colours = [MET if line["met"] else MISSED for line in shown]
    axes.barh(range(len(shown)), reached, color=colours, height=0.7)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    # As powers of two, as far as the bars reach: matplotlib's own labels would run into each other.
    powers = [2.0**k for k in range(-4, 8) if min(reached) <= 2.0**k <= max(reached)]
    axes.set_xticks([], minor=True)
    axes.set_xticks(sorted({1.0, *powers}), [f"{x:g}" for x in sorted({1.0, *powers})])
    axes.set_yticks(range(len(shown)), [title(line) for line in shown], fontsize=7)
    axes.invert_yaxis()
    for at, (line, value) in enumerate(zip(shown, reached, strict=True)):
        axes.text(value * 1.02, at, written(line), va="center", fontsize=7)
    axes.set_xlabel("times the bar (log scale); right of the line it is met", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def headroom(line: dict[str, Any]) -> float:
    """Above 1 where the bar is met."""
    ratio: float = line["value"] / line["bar"]
    return ratio if line["more_is_better"] else 1 / ratio


def title(line: dict[str, Any]) -> str:
    against = f" / {line['against']}" if line["against"] else ""
    return f"{line['number']}  {line['work']}{against} ({line['measure']})"
