"""What the answers of runs prove about their arms: intervals, verdicts, and what was refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from llmexp.compare.answers import answers
from llmexp.compare.arms import Arm
from llmexp.compare.measures import Measure, Row, measures
from llmexp.compare.statistics.difference import difference, holm
from llmexp.compare.statistics.interval import Interval, interval
from llmexp.compare.statistics.sample import Sample
from llmexp.compare.verdict import Verdict

Result = dict[str, Any]
Pair = tuple[Arm, Arm]


@dataclass
class Evidence:
    """Of the arms that could be judged; `refused` says of the others why not."""

    intervals: dict[Arm, Interval] = field(default_factory=dict)
    pairs: dict[Pair, Verdict] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    examples: int = 0

    @property
    def verdicts(self) -> list[Verdict]:
        return list(self.pairs.values())

    def of(self, first: Arm, second: Arm) -> Verdict | None:
        """The verdict on two arms, whichever way round it was asked."""
        return self.pairs.get((first, second)) or self.pairs.get((second, first))


def evidence(arms: list[Arm], metric: str, apart: list[list[Result]] | None = None) -> Evidence:
    """Judge arms (best first) by a metric, on the test examples that all their runs answered.

    Two arms are tested against each other where all their runs are in one part of `apart`.
    """
    found = Evidence()
    runs = [run for arm in arms for run in arm.runs]
    scored, why = _scored(runs, metric)
    found.refused += why
    if scored is None:
        return found
    sample, at = scored
    places = _places(arms, at, metric, found.refused)
    found.examples = sample.examples
    found.intervals = {arm: interval(sample, rows) for arm, rows in places.items()}
    part = {id(run): i for i, runs_ in enumerate(apart or [runs]) for run in runs_}
    of = {arm: {part.get(id(run)) for run in arm.runs} for arm in arms}
    pairs = [(a, b) for a, b in combinations(places, 2) if len(of[a] | of[b]) == 1]
    found.pairs = _verdicts(sample, places, pairs, metric)
    return found


def _places(
    arms: list[Arm], at: dict[str, int], metric: str, said: list[str]
) -> dict[Arm, list[int]]:
    """The rows of each arm in the sample, where all the runs that its mean is over have one."""
    found = {}
    for arm in arms:
        measured = arm.measured(metric)
        rows = [at[run["folder"]] for run in measured if run.get("folder") in at]
        if rows and len(rows) == len(measured):
            found[arm] = rows
        elif rows:
            lost = len(measured) - len(rows)
            said.append(
                f"{arm.name}: {lost} of {len(measured)} runs cannot be tested, so the arm has "
                "neither interval nor verdict; its mean is over all of them"
            )
    return found


def _verdicts(
    sample: Sample, places: dict[Arm, list[int]], pairs: list[Pair], metric: str
) -> dict[Pair, Verdict]:
    compared = [difference(sample, places[a], places[b]) for a, b in pairs]
    adjusted = holm([d.p for d in compared])
    seeds = [(len(places[a]), len(places[b])) for a, b in pairs]
    return {
        (a, b): Verdict(a.name, b.name, d, p, metric, sample, n, len(pairs))
        for (a, b), d, p, n in zip(pairs, compared, adjusted, seeds, strict=True)
    }


def _scored(
    runs: list[Result], metric: str
) -> tuple[tuple[Sample, dict[str, int]] | None, list[str]]:
    """The runs that have the metric as rows of one sample, and what was left out."""
    runs = [run for run in runs if run["metrics"].get(metric) is not None]
    for measure in measures(metric, labels_of(runs)):
        given = {str(run["folder"]): read(run, measure) for run in runs if "folder" in run}
        if not any(given.values()):
            continue
        said = [f"{f} has no {measure.file} to test it by" for f, r in given.items() if not r]
        given = _same_examples({f: rows for f, rows in given.items() if rows}, said)
        parts = _parts(runs, given, measure, metric, said)
        if parts:
            sample = Sample(np.stack(list(parts.values())), measure.value, measure.bounded)
            return (sample, {folder: i for i, folder in enumerate(parts)}), said
        return None, said
    name = metric.removeprefix("test/")
    said = [f"{name}: no run keeps what single answers add to it, so it has no interval"]
    return None, said if runs else []


def read(run: Result, measure: Measure) -> dict[Any, Row]:
    """The answers of a run that has what the measure needs."""
    rows = answers(str(run["folder"]), measure.file)
    known = all(key in row for row in rows.values() for key in measure.needs)
    return {i: row for i, row in rows.items() if _has_reference(row)} if known else {}


def _has_reference(row: Row) -> bool:
    return row.get("reference", "") is not None


def labels_of(runs: list[Result]) -> list[str]:
    """Of a classification, from the scores that runs have for each label."""
    keys = [k for r in runs for k in r.get("metrics", {}) if k.startswith("test/f1/")]
    return list(dict.fromkeys(key.removeprefix("test/f1/") for key in keys))


def _same_examples(given: dict[str, dict[Any, Row]], said: list[str]) -> dict[str, dict[Any, Row]]:
    """Those that answered what most answered: the same rows with the same references."""
    marks = {
        folder: tuple((index, row.get("reference")) for index, row in rows.items())
        for folder, rows in given.items()
    }
    usual, _ = Counter(marks.values()).most_common(1)[0]
    like = next(folder for folder, mark in marks.items() if mark == usual)
    other = [folder for folder in given if marks[folder] != usual]
    said += [f"{f} answered other test examples than {like}: not tested against it" for f in other]
    return {folder: rows for folder, rows in given.items() if folder not in other}


def _parts(
    runs: list[Result],
    given: dict[str, dict[Any, Row]],
    measure: Measure,
    metric: str,
    said: list[str],
) -> dict[str, Any]:
    """The numbers of each run's examples, where they add up to the metric it reports."""
    found = {}
    for run in runs:
        folder, reported = run.get("folder"), run["metrics"].get(metric)
        if folder not in given or reported is None:
            continue
        made = measure.parts(list(given[folder].values()))
        value = float(measure.value(made.mean(axis=0)))
        if abs(value - reported) > measure.tolerance * max(1.0, abs(reported)):
            said.append(
                f"{folder}: {measure.file} gives {metric} {value:.4f} and result.json "
                f"{reported:.4f}: not tested against others"
            )
        else:
            found[folder] = made
    return found
