"""The rows that a study is shown as: one an arm where there are several seeds, else one a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmexp.compare import comparison
from llmexp.compare.arms import Arm
from llmexp.compare.figures import memory, number, seconds, short
from llmexp.compare.footnotes import footnotes
from llmexp.compare.price import mean_price
from llmexp.compare.study import Study

# Columns that hold words; all others hold numbers.
WORDS = ("strategy", "model")


@dataclass(frozen=True)
class Table:
    """Cells as text, the best row first; `notes` are printed below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]
    narrow: bool = False
    """Whether the columns need every character."""


def table(study: Study) -> Table:
    group = study.group
    title, notes = comparison.title(group), footnotes(group)
    if not study.several:
        columns, rows = comparison.columns(group), comparison.rows(group)
        narrow = len(group.varying()) > 1
        return Table(title, columns, rows, [*comparison.marks(group), *notes], narrow)
    shown = comparison.METRICS
    there = {name for arm in study.arms for run in arm.runs for name in run["metrics"]}
    second = next((m for m in shown if m in there and m != group.metric), None)
    names = [group.metric, *([second] if second else [])]
    titles = [name.removeprefix("test/") for name in names]
    columns = ["strategy", "seeds", titles[0], "95 %", *titles[1:], "train", "trained", "memory"]
    found: list[tuple[dict[str, Any], list[str]]] = []
    for arm in study.arms:
        metrics = {name: arm.mean("metrics", name) for name in names}
        found.append((metrics, _cells(study, arm, metrics)))
    for baseline in comparison.baselines(group):
        values = [number(baseline.get(name)) for name in names]
        cells = ["(baseline)", "", values[0], "", *values[1:], "", "", ""]
        found.append((baseline, cells))
    ordered = sorted(found, key=lambda pair: comparison.order(pair[0], group.metric))
    return Table(title, columns, [cells for _, cells in ordered], notes)


def _cells(study: Study, arm: Arm, metrics: dict[str, Any]) -> list[str]:
    first, *rest = metrics.values()
    cost = mean_price(arm)
    cells = [arm.name, str(study.seeds(arm)), number(first), bounds(study, arm), *map(number, rest)]
    cells += [seconds(cost["train_seconds"] or 0.0)]
    cells += [short(round(cost["trainable_parameters"] or 0)), memory(cost["peak_memory_mb"] or 0)]
    return cells


def bounds(study: Study, arm: Arm) -> str:
    """The interval of an arm, in as many digits as it is worth."""
    found = study.interval(arm)
    if found is None:
        return "-"
    wide = abs(found.high) >= 100
    return "-".join(f"{x:.4g}" if wide else f"{x:.3f}" for x in (found.low, found.high))
