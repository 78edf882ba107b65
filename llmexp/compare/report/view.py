"""A study as the plain values that the page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmexp.compare import comparison
from llmexp.compare.conclusions import conclusions, remarks
from llmexp.compare.figures import number
from llmexp.compare.footnotes import footnotes
from llmexp.compare.price import PRICES, TITLES, amount, mean_price, price, recorded
from llmexp.compare.report.errors import errors
from llmexp.compare.report.examples import examples
from llmexp.compare.report.pictures import learning_curves, quality_against_cost
from llmexp.compare.report.svg import COLOURS
from llmexp.compare.settings import differences
from llmexp.compare.study import Study
from llmexp.compare.table import bounds
from llmexp.metrics import lower_is_better

# Metrics in the table of arms; the table of runs has all.
FEW = 3


@dataclass(frozen=True)
class Cell:
    """A text, and the number that it is sorted by where it is one."""

    text: str
    value: float | str | None = None
    hint: str = ""


def view(study: Study, place: int) -> dict[str, Any]:
    """Everything about one test set."""
    prefix = f"s{place}-"
    found = examples(study.arms)
    return {
        "id": prefix.rstrip("-"),
        "title": comparison.title(study.group),
        "metric": study.group.metric.removeprefix("test/"),
        "lower": lower_is_better(study.group.metric),
        "best": _best(study),
        "arms": [
            {"name": a.name, "at": i, "colour": i % COLOURS} for i, a in enumerate(study.arms)
        ],
        "lines": conclusions(study, "every pair is below"),
        "remarks": [*remarks(study), *footnotes(study.group, None)],
        "scatter": quality_against_cost(study, f"{prefix}cost-") if study.front() else None,
        "curves": learning_curves(study, f"{prefix}curve-"),
        "table": _arms(study),
        "runs": _runs(study),
        "pairs": _pairs(study),
        "settings": _settings(study),
        "errors": errors(found) if found else None,
    }


def _best(study: Study) -> str:
    """The one sentence to take away."""
    if not study.front():
        return ""
    first = study.arms[0]
    said = (
        f"{first.name}: {study.group.metric.removeprefix('test/')} {number(study.quality(first))}"
    )
    return said + (f" ({bounds(study, first)})" if study.interval(first) else "")


def _metrics(study: Study) -> list[str]:
    """The metrics of the runs, the one that decides first; not those of single labels."""
    there = {name for run in study.group.runs for name in run["metrics"]}
    known = [name for name in comparison.METRICS if name in there]
    telling = [*known, *sorted(m for m in there if m.startswith("test/") and m.count("/") == 1)]
    return list(dict.fromkeys([study.group.metric, *telling]))


def _arms(study: Study) -> dict[str, Any]:
    metrics, prices = _metrics(study)[:FEW], [mean_price(arm) for arm in study.arms]
    shown = recorded(prices)
    first, *rest = [name.removeprefix("test/") for name in metrics]
    columns = ["", "arm", "seeds", first, "95 %", *rest, *(TITLES[name] for name in shown)]
    front = {arm.name for arm in study.front()}
    rows = []
    for i, (arm, cost) in enumerate(zip(study.arms, prices, strict=True)):
        mark = "best for its price" if arm.name in front else ""
        found = study.interval(arm)
        values = [_number(arm.mean("metrics", name)) for name in metrics]
        cells = [Cell("●" if mark else "", float(bool(mark)), mark), Cell(arm.name, arm.name)]
        cells += [Cell(str(study.seeds(arm)), study.seeds(arm)), values[0]]
        cells += [Cell(bounds(study, arm), found.low if found else None), *values[1:]]
        cells += [Cell(amount(name, cost[name]), cost[name], PRICES[name]) for name in shown]
        rows.append({"arm": i, "cells": cells})
    return {"columns": columns, "rows": rows}


def _number(value: float | None) -> Cell:
    return Cell(number(value), value)


def _runs(study: Study) -> dict[str, Any]:
    """Every run by itself."""
    metrics = _metrics(study)
    facts = [(i, arm, run) for i, arm in enumerate(study.arms) for run in arm.runs]
    prices = [price(run) for _, _, run in facts]
    shown = recorded(prices)
    columns = ["arm", "seed", *(name.removeprefix("test/") for name in metrics)]
    columns += [*(TITLES[name] for name in shown), "folder"]
    rows = []
    for (i, arm, run), cost in zip(facts, prices, strict=True):
        cells = [Cell(arm.name, arm.name), Cell(str(run.get("seed")), run.get("seed"))]
        cells += [_number(run["metrics"].get(name)) for name in metrics]
        cells += [Cell(amount(name, cost[name]), cost[name]) for name in shown]
        folder = str(run.get("folder", ""))
        rows.append({"arm": i, "cells": [*cells, Cell(folder, folder)]})
    return {"columns": columns, "rows": rows}


def _pairs(study: Study) -> dict[str, Any]:
    """Every pair with its verdict."""
    at = {arm: i for i, arm in enumerate(study.arms)}
    rows = []
    for (first, second), verdict in study.evidence.pairs.items():
        d = verdict.difference
        unit = 100 if verdict.sample.bounded else 1
        cells = [
            Cell(verdict.sentence, verdict.sentence),
            Cell(f"{unit * d.mean:+.3g}", d.mean),
            Cell(f"{unit * d.low:+.3g} to {unit * d.high:+.3g}", d.low),
            Cell(f"{verdict.p:.2g}" if verdict.p >= 0.0001 else "<0.0001", verdict.p),
            Cell(d.test, d.test),
        ]
        rows.append({"arm": at[first], "other": at[second], "cells": cells})
    name = "points" if rows and study.evidence.verdicts[0].sample.bounded else "difference"
    return {
        "columns": ["verdict", name, "95 % (this pair alone)", "p (Holm)", "test"],
        "rows": rows,
    }


def _settings(study: Study) -> dict[str, Any]:
    """What is set differently: one column an arm, where its runs agree."""
    runs = [(arm, run) for arm in study.arms for run in arm.runs]
    found = differences([run for _, run in runs])
    rows = []
    for key, values in found.items():
        cells = [Cell(key, key)]
        for arm in study.arms:
            mine = [v for (a, _), v in zip(runs, values, strict=True) if a is arm]
            text = ", ".join(dict.fromkeys(mine))
            cells.append(Cell(text, text))
        rows.append({"cells": cells})
    return {"columns": ["key", *(arm.name for arm in study.arms)], "rows": rows}
