"""Which runs can be compared, in which order, and what of them is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmexp.compare.figures import number
from llmexp.compare.price import TITLES, amount, price, recorded
from llmexp.compare.settings import settings
from llmexp.compare.tokens import per_token, vocabularies
from llmexp.errors import UserError, did_you_mean
from llmexp.metrics import lower_is_better

Result = dict[str, Any]

# Quality, most telling first; the first that runs have decides the order.
METRICS = (
    "test/accuracy",
    "test/perplexity",
    "test/f1_macro",
    "test/rouge_l",
    "test/bits_per_byte",
    "test/exact_match",
    "test/loss",
)
# Columns of metrics; one less for each of model and seed, so that 80 characters are enough.
SHOWN = 3
CHOICES = ("strategy", "model", "data", "seed", "name", "resume")
# Where the test rows are from: of a test file, else a part of the train file.
TESTED = ("data.test", "data.train")
UNMEASURED = ("hydra", "tracking", "tags")


@dataclass(frozen=True)
class Group:
    """Runs of one task on the same test rows, the completed ones best first."""

    task: str
    fingerprint: str
    metric: str
    runs: list[Result]
    unfinished: list[Result]
    vocabularies: list[list[Result]] = field(default_factory=list)
    """The runs apart by the tokens that the test rows were to them."""

    @property
    def foreign(self) -> bool:
        """Whether the metric is per token, of tokens that are not the same ones in all runs."""
        return len(self.vocabularies) > 1 and per_token(self.metric)

    def names(self, key: str) -> list[Any]:
        """The distinct values of a key, in order of appearance."""
        return list(dict.fromkeys(run.get(key) for run in [*self.runs, *self.unfinished]))

    def metrics(self) -> list[str]:
        """The metrics that get a column: what decides, then what else is telling."""
        there = {name for run in self.runs for name in run["metrics"]}
        found = [self.metric, *(m for m in METRICS if m in there and m != self.metric)]
        return found[: SHOWN - len(self.varying())]

    def varying(self) -> list[str]:
        """Which of model and seed differ between the runs, and so need a column."""
        return [name for name in ("model", "seed") if len(self.names(name)) > 1]


def groups(results: Iterable[Result], metric: str | None = None) -> list[Group]:
    """Runs apart by task and test rows: numbers of different tests do not compare."""
    apart: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        key = (str(result.get("task", "")), test_fingerprint(result))
        apart.setdefault(key, []).append(result)
    known = {name for result in results for name in result.get("metrics", {})}
    if metric is not None and known and metric not in known:
        tests = [name for name in known if name.startswith("test/")]
        raise UserError(f"--metric: no run has {metric}; {did_you_mean(metric, tests)}")
    made = [_group(*key, members, metric) for key, members in apart.items()]
    return sorted(made, key=lambda group: not group.runs)


def _group(task: str, fingerprint: str, members: list[Result], metric: str | None) -> Group:
    completed = [r for r in members if r["status"] == "completed"]
    there = Counter(name for run in completed for name in run["metrics"])
    apart = vocabularies(completed)
    telling = [name for name in METRICS if len(apart) < 2 or not per_token(name)]
    if not any(there[name] for name in telling):
        telling = list(METRICS)
    chosen = metric or max(telling, key=lambda name: there[name])

    def rank(run: Result) -> tuple[bool, float, float]:
        return *order(run["metrics"], chosen), run["cost"]["total_seconds"]

    unfinished = [r for r in members if r["status"] != "completed"]
    return Group(task, fingerprint, chosen, sorted(completed, key=rank), unfinished, apart)


def test_fingerprint(result: Result) -> str:
    return str(result.get("fingerprint", {}).get("test", ""))


def changed(group: Group) -> list[str]:
    """For each run the overrides that tell it from the others and have no column of their own."""
    said = [[o for o in run.get("overrides", []) if not _is_shown(o)] for run in group.runs]
    everywhere = set(said[0]).intersection(*said) if said else set()
    return [" ".join(o for o in each if o not in everywhere) for each in said]


def _is_shown(override: str) -> bool:
    """Whether an override has a column of its own, or changes nothing that is measured."""
    key = override.lstrip("+~").partition("=")[0]
    return key in CHOICES or key.split(".")[0] in UNMEASURED


def columns(group: Group) -> list[str]:
    """Titles, in order; a fact that all runs share stands in the title instead."""
    titles = ["strategy"]
    titles += group.varying()
    titles += [name.removeprefix("test/") for name in group.metrics()]
    return [*titles, *(TITLES[name] for name in prices(group))]


def prices(group: Group) -> list[str]:
    """The prices that get a column."""
    return recorded([price(run) for run in group.runs])


def rows(group: Group) -> list[list[str]]:
    """One row a run, best first, with the baseline where its quality puts it."""
    numbers = legend(group)
    made = [
        (run["metrics"], _cells(group, run, numbers.get(i))) for i, run in enumerate(group.runs)
    ]
    made += [(reference, _baseline_cells(group, reference)) for reference in baselines(group)]
    return [cells for _, cells in sorted(made, key=lambda pair: order(pair[0], group.metric))]


def legend(group: Group) -> dict[int, int]:
    """The number of the footnote of each run that has one; runs changed alike share theirs."""
    said = changed(group)
    numbers = {text: n for n, text in enumerate(dict.fromkeys(t for t in said if t), 1)}
    return {i: numbers[text] for i, text in enumerate(said) if text}


def order(metrics: dict[str, Any], metric: str) -> tuple[bool, float]:
    """Best first; what was not measured comes last."""
    value = metrics.get(metric)
    sign = 1 if lower_is_better(metric) else -1
    return value is None, sign * (value or 0.0)


def _cells(group: Group, run: Result, mark: int | None) -> list[str]:
    cost = price(run)
    cells = [run["strategy"] if mark is None else f"{run['strategy']} ({mark})"]
    cells += [str(run[name]) for name in group.varying()]
    cells += [number(run["metrics"].get(name)) for name in group.metrics()]
    return [*cells, *(amount(name, cost[name]) for name in prices(group))]


def baselines(group: Group) -> list[dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for run in group.runs:
        baseline = run.get("baseline", {})
        if any(name in baseline for name in group.metrics()):
            found.setdefault(baseline.get(group.metric), baseline)
    return list(found.values())


def _baseline_cells(group: Group, baseline: dict[str, Any]) -> list[str]:
    blank = [""] * len(group.varying())
    values = [number(baseline.get(name)) for name in group.metrics()]
    return ["(baseline)", *blank, *values, *[""] * len(prices(group))]


def title(group: Group) -> str:
    """What all runs of a group share."""
    test = next((r["examples"].get("test") for r in group.runs if r.get("examples")), None)
    parts = [*_data(group), group.task.replace("_", " ")]
    if test:
        parts.append(f"{test} test rows")
    shared = [key for key in ("model", "seed") if key not in group.varying()]
    known = [(key, group.names(key)[0]) for key in shared]
    parts += [f"{key} {name}" for key, name in known if name is not None]
    return ", ".join(part for part in dict.fromkeys(parts) if part)


def _data(group: Group) -> list[str]:
    """Which data the runs read: the choice, and the file where one was given for it."""
    names = [str(name) for name in group.names("data") if name is not None]
    known = [settings(run) for run in group.runs[:1]]
    places = [one[key] for one in known for key in TESTED if one.get(key, "None") != "None"]
    # What a choice reads by itself is a place such as hub:OWNER/NAME:SPLIT.
    files = [place for place in places[:1] if ":" not in place]
    return [*names, *("/".join(Path(file).parts[-2:]) for file in files)]


def marks(group: Group) -> list[str]:
    """What the marks in the first column mean."""
    at, said = legend(group), changed(group)
    return list(dict.fromkeys(f"({at[i]}) {said[i]}" for i in at))
