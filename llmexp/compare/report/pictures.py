"""The pictures of a report: quality against cost, and learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

from llmexp.compare.figures import seconds
from llmexp.compare.price import mean_price
from llmexp.compare.report.curves import Points, curve
from llmexp.compare.report.svg import FAINT, INK, STYLE, colour, svg
from llmexp.compare.study import Study

# Inches: for a wide page and for a phone, both at 72 points an inch.
WIDE, SLIM = (10.0, 4.6), (4.9, 4.6)
MARKERS = "osD^vPX*<>"


def both(draw: Any, study: Study, prefix: str, label: str) -> dict[str, str]:
    """A picture in both shapes; the page shows the one that fits."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = [arm.name for arm in study.arms]
    made = {}
    for shape, size in (("wide", WIDE), ("slim", SLIM)):
        with rc_context(STYLE):
            figure = Figure(figsize=size, layout="constrained")
            draw(study, figure, shape == "slim")
            made[shape] = svg(figure, f"{prefix}{shape}-", names, label)
    return made


def quality_against_cost(study: Study, prefix: str) -> dict[str, str]:
    """Each arm with its interval; a line joins those that are best for their price."""
    return both(_scatter, study, prefix, "Quality against total seconds")


def _scatter(study: Study, figure: Any, slim: bool) -> None:
    axes = figure.add_subplot()
    _logarithmic(axes)
    axes.set_xlabel("total seconds, cached features at their first price")
    axes.set_ylabel(study.group.metric.removeprefix("test/"))
    costs = [mean_price(arm)["total_seconds"] for arm in study.arms]
    place = {arm.name: (c, study.quality(arm)) for arm, c in zip(study.arms, costs, strict=True)}
    front = [place[arm.name] for arm in study.front()]
    axes.step(*zip(*sorted(front), strict=True), where="post", color=FAINT, linewidth=2, zorder=1)
    best = {arm.name for arm in study.front()}
    known = [cost for cost in costs if cost]
    middle = (min(known) * max(known)) ** 0.5 if known else 1.0
    room = Room([(x, y) for x, y in place.values() if x and y is not None])
    for i, arm in enumerate(study.arms):
        x, y = place[arm.name]
        if x is None or y is None:
            continue
        found = study.interval(arm)
        if found is not None:
            ends = [found.low, found.high]
            axes.plot([x, x], ends, color=colour(i), linewidth=2, gid=f"arm{i}-bar", zorder=2)
        filled = colour(i) if arm.name in best else "none"
        axes.plot(
            [x], [y], marker=MARKERS[i % 10], markersize=9, color=colour(i), gid=f"arm{i}-dot",
            markerfacecolor=filled, markeredgewidth=2, linestyle="none", zorder=3,
        )  # fmt: skip
        right = x > middle
        near = room.near(x, y, 0.35 if slim else 0.2)
        if slim and near > 1:
            continue  # the buttons above the table say whose colour it is
        high = -14 if near % 2 else 6
        axes.annotate(
            arm.name if len(arm.name) < 40 else arm.name[:38] + "…", (x, y),
            xytext=(-9 if right else 9, high), textcoords="offset points", fontsize=9, color=INK,
            ha="right" if right else "left", gid=f"arm{i}-name", parse_math=False,
        )  # fmt: skip
    axes.margins(x=0.06, y=0.08)


class Room:
    """Where names stand already, so that the next keeps clear of them."""

    def __init__(self, points: list[tuple[float, float]]):
        xs, ys = [log(x) for x, _ in points], [y for _, y in points]
        self.width = max(xs, default=1.0) - min(xs, default=0.0) or 1.0
        self.height = max(ys, default=1.0) - min(ys, default=0.0) or 1.0
        self.taken: list[tuple[float, float]] = []

    def near(self, x: float, y: float, reach: float) -> int:
        """How many names stand within this share of the width; the new one is counted from now."""
        here = (log(x) / self.width, y / self.height)
        found = [t for t in self.taken if abs(t[0] - here[0]) < reach and abs(t[1] - here[1]) < 0.1]
        self.taken.append(here)
        return len(found)


def _logarithmic(axes: Any) -> None:
    """Seconds at 1, 2, 5, 10 and so on, in words that need no power of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value).replace(".0", ""))


def learning_curves(study: Study, prefix: str) -> dict[str, str] | None:
    """Training loss and the validation metric over steps; None where no run logged any."""
    panels = _panels(study)
    if not any(line.points for _, lines in panels for line in lines):
        return None
    return both(lambda _, figure, slim: _lines(panels, figure, slim), study, prefix, "Curves")


@dataclass(frozen=True)
class Line:
    """The curve of one run; of no arm where the runs that are set like it did not complete."""

    arm: int | None
    points: Points
    whole: bool
    """Whether the run completed."""


Panels = list[tuple[str, list[Line]]]


def _panels(study: Study) -> Panels:
    validated = study.group.metric.replace("test/", "val/")
    return [(key, _of_all(study, key)) for key in ("train/loss", validated)]


def _of_all(study: Study, key: str) -> list[Line]:
    """Every run of the test set, those that did not complete as far as they came."""
    lines = []
    for i, arm in enumerate(study.arms):
        lines += [Line(i, curve(run, key), True) for run in arm.runs]
        lines += [Line(i, curve(run, key), False) for run in arm.lost]
    known = {id(run) for arm in study.arms for run in arm.lost}
    others = [run for run in study.group.unfinished if id(run) not in known]
    return [*lines, *(Line(None, curve(run, key), False) for run in others)]


def _lines(panels: Panels, figure: Any, slim: bool) -> None:
    rows, columns = (2, 1) if slim else (1, 2)
    for n, (key, lines) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, n)
        axes.set_title(key, fontsize=10, loc="left")
        axes.set_xlabel("step")
        for line in lines:
            if line.points:
                _line(axes, line)


def _line(axes: Any, line: Line) -> None:
    xs, ys = zip(*line.points, strict=True)
    if line.arm is None:
        axes.plot(xs, ys, color=INK, linewidth=1.0, linestyle="dotted")
        return
    axes.plot(
        xs, ys, color=colour(line.arm), linestyle="solid" if line.whole else "dashed",
        marker=MARKERS[line.arm % 10] if len(xs) < 12 else "", markersize=5, linewidth=1.3,
        gid=f"arm{line.arm}-curve",
    )  # fmt: skip
