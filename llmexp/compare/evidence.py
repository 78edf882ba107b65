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


@dataclass
class Evidence:
    """Of the arms that could be judged; `refused` says of the others why not."""

    intervals: dict[str, Interval] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    examples: int = 0

    def of(self, first: str, second: str) -> Verdict | None:
        """The verdict on two arms, whichever way round it was asked."""
        asked = {first, second}
        return next((v for v in self.verdicts if {v.first, v.second} == asked), None)


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
    judged = {arm.name: [at[r["folder"]] for r in arm.runs if r["folder"] in at] for arm in arms}
    places = {name: rows for name, rows in judged.items() if rows}
    found.examples = sample.examples
    found.intervals = {name: interval(sample, rows) for name, rows in places.items()}
    part = {id(run): i for i, runs_ in enumerate(apart or [runs]) for run in runs_}
    of = {arm.name: {part.get(id(run)) for run in arm.runs} for arm in arms}
    pairs = [(a, b) for a, b in combinations(places, 2) if len(of[a] | of[b]) == 1]
    found.verdicts = _verdicts(sample, places, pairs, metric)
    return found


def _verdicts(
    sample: Sample, places: dict[str, list[int]], pairs: list[tuple[str, str]], metric: str
) -> list[Verdict]:
    compared = [difference(sample, places[a], places[b]) for a, b in pairs]
    adjusted = holm([d.p for d in compared])
    return [
        Verdict(a, b, d, p, metric, sample, (len(places[a]), len(places[b])), len(pairs))
        for (a, b), d, p in zip(pairs, compared, adjusted, strict=True)
    ]


def _scored(
    runs: list[Result], metric: str
) -> tuple[tuple[Sample, dict[str, int]] | None, list[str]]:
    """The runs as rows of one sample, and what was left out."""
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
