"""The bars as a picture: how far each measured value lies from what it must reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contest.bars import written

MET, MISSED = "#2a7f62", "#c1443c"


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """One bar for each line that was measured and has a limit, as a multiple of it; best is right.

    Where no multiple says it (a limit or a value of nothing), a pale bar lies on the right side.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "llmexp"
    from matplotlib import pyplot as plt

    shown = [line for line in found if line["bar"] is not None and line["value"] is not None]
    reached = [headroom(line) for line in shown]
    figure, axes = plt.subplots(figsize=(9.0, 0.9 + 0.27 * max(1, len(shown))))
    for at, (line, value) in enumerate(zip(shown, reached, strict=True)):
        colour, pale = (MET if line["met"] else MISSED), 1.0 if multiple(line) else 0.4
        axes.barh(at, value - 1, left=1.0, color=colour, alpha=pale, height=0.7)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    # As powers of two, as far as the bars reach: matplotlib's own labels would run into each other.
    ends = [1.0, *reached]
    powers = [2.0**k for k in range(-4, 8) if min(ends) <= 2.0**k <= max(ends)]
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


def multiple(line: dict[str, Any]) -> bool:
    """Whether the value is so many times its limit."""
    return line["bar"] > 0 and line["value"] > 0


def headroom(line: dict[str, Any]) -> float:
    """Above 1 where the bar is met."""
    if not multiple(line):
        return 2.0 if line["met"] else 0.5
    ratio: float = line["value"] / line["bar"]
    return ratio if line["more_is_better"] else 1 / ratio


def title(line: dict[str, Any]) -> str:
    against = f" / {line['against']}" if line["against"] else ""
    return f"{line['number']}  {line['work']}{against} ({line['measure']})"
