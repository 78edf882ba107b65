"""The rows that a study is shown as: one an arm where there are several seeds, else one a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmexp.compare import comparison
from llmexp.compare.arms import Arm
from llmexp.compare.figures import number
from llmexp.compare.footnotes import footnotes
from llmexp.compare.price import TITLES, amount, mean_price
from llmexp.compare.study import Study

# Columns that hold words; all others hold numbers.
WORDS = ("strategy", "model")
LEAST_TELLING = ("estimated_flops", "tokens_per_second")


# Of a terminal's line the first column may take so much; longer names go on below.
FIRST = 20


@dataclass(frozen=True)
class Table:
    """Cells as text, the best row first; `notes` are printed below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]
    spare: list[str]
    """Columns that give way where there is no room, the first of them first."""

    def width(self, gap: int) -> int:
        """In characters, with so many between columns."""
        lines = zip(self.columns, *self.rows, strict=True)
        first, *rest = (max(map(len, cells)) for cells in lines)
        return min(FIRST, first) + sum(rest) + gap * len(rest)

    def fitting(self, width: int) -> Table:
        """As much of it as so many characters hold, and a note on what they do not."""
        shown, gone = self, list[str]()
        for name in self.spare:
            if name in self.columns and shown.width(1) > width:
                shown, gone = shown.without(name), [*gone, name]
        if not gone:
            return self
        said = f"no room for {', '.join(gone)} (--markdown and --html have all columns)"
        return replace(shown, notes=[*self.notes, said])

    def without(self, name: str) -> Table:
        at = self.columns.index(name)
        columns, *rows = (line[:at] + line[at + 1 :] for line in (self.columns, *self.rows))
        return replace(self, columns=columns, rows=rows)


def table(study: Study) -> Table:
    group = study.group
    title, notes = comparison.title(group), footnotes(group)
    if not study.several:
        columns, rows = comparison.columns(group), comparison.rows(group)
        spare = _spare(group.metrics())
        return Table(title, columns, rows, [*comparison.marks(group), *notes], spare)
    shown = comparison.METRICS
    there = {name for arm in study.arms for run in arm.runs for name in run["metrics"]}
    second = next((m for m in shown if m in there and m != group.metric), None)
    names = [group.metric, *([second] if second else [])]
    titles = [name.removeprefix("test/") for name in names]
    prices = comparison.prices(group)
    columns = ["strategy", "seeds", titles[0], "95 %", *titles[1:], *(TITLES[p] for p in prices)]
    found: list[tuple[dict[str, Any], list[str]]] = []
    for arm in study.arms:
        metrics = {name: arm.mean("metrics", name) for name in names}
        found.append((metrics, _cells(study, arm, metrics, prices)))
    for baseline in comparison.baselines(group):
        values = [number(baseline.get(name)) for name in names]
        cells = ["(baseline)", "", values[0], "", *values[1:], *[""] * len(prices)]
        found.append((baseline, cells))
    ordered = sorted(found, key=lambda pair: comparison.order(pair[0], group.metric))
    return Table(title, columns, [cells for _, cells in ordered], notes, _spare(names))


def _spare(metrics: list[str]) -> list[str]:
    """Work before further metrics, those before the seconds that the total holds as well."""
    further = [name.removeprefix("test/") for name in metrics[:0:-1]]
    return [*(TITLES[name] for name in LEAST_TELLING), *further, TITLES["train_seconds"]]


def _cells(study: Study, arm: Arm, metrics: dict[str, Any], prices: list[str]) -> list[str]:
    first, *rest = metrics.values()
    cost = mean_price(arm)
    cells = [arm.name, str(study.seeds(arm)), number(first), bounds(study, arm)]
    return [*cells, *map(number, rest), *(amount(name, cost[name]) for name in prices)]


def bounds(study: Study, arm: Arm) -> str:
    """The interval of an arm, in as many digits as it is worth."""
    found = study.interval(arm)
    if found is None:
        return "-"
    wide = abs(found.high) >= 100
    return "-".join(f"{x:.4g}" if wide else f"{x:.3f}" for x in (found.low, found.high))
