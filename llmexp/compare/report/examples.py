"""Where arms go wrong: single test examples, labels, lengths."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmexp.compare.arms import Arm
from llmexp.compare.evidence import labels_of, read
from llmexp.compare.measures import measures
from llmexp.compare.statistics.sample import Numbers

Row = dict[str, Any]

# The metrics that score each answer alone; the first that a task has is looked at.
OF_ONE = ("test/accuracy", "test/rouge_l", "test/exact_match")
# A matrix of more labels is no picture any more; its largest entries are listed instead.
MOST_LABELS = 30
BINS = 4
# How far apart the scores of two written answers are where their arms disagree.
CLEAR = 0.2


@dataclass(frozen=True)
class Disagreement:
    """Examples on which the first arm did better than the second, most clearly first."""

    first: str
    second: str
    count: int
    rows: list[Row]


@dataclass(frozen=True)
class Examples:
    """`scores` [arms, examples]: the mean over an arm's seeds of how well it answered."""

    arms: list[str]
    metric: str
    labels: list[str]
    rows: list[Row]
    scores: Numbers
    said: list[list[str]]
    """What each arm answered: the most frequent answer of its seeds."""

    @property
    def classified(self) -> bool:
        return bool(self.labels)

    def example(self, i: int) -> Row:
        """One test example with what every arm made of it."""
        row = self.rows[i]
        text = " / ".join(str(row[k]) for k in ("input", "input_pair") if row.get(k) is not None)
        answers = [
            {"arm": name, "said": self.said[a][i], "score": float(self.scores[a, i])}
            for a, name in enumerate(self.arms)
        ]
        return {"index": row["index"], "input": text, "reference": row["reference"]} | {
            "answers": answers,
            "score": float(self.scores[:, i].mean()),
        }

    def hardest(self, most: int = 12) -> list[Row]:
        """The examples that most arms got wrong."""
        order = np.argsort(self.scores.mean(axis=0), kind="stable")[:most]
        return [self.example(int(i)) for i in order if self.scores[:, i].mean() < 0.5]

    def disagreements(self, most: int = 5) -> list[Disagreement]:
        """The best arm and each other one, both ways round."""
        found = []
        for other in range(1, len(self.arms)):
            for a, b in ((0, other), (other, 0)):
                ahead = self.scores[a] - self.scores[b]
                clear = np.flatnonzero(ahead > (0.5 if self.classified else CLEAR))
                order = clear[np.argsort(-ahead[clear], kind="stable")][:most]
                rows = [self.example(int(i)) for i in order]
                found.append(Disagreement(self.arms[a], self.arms[b], len(clear), rows))
        return [one for one in found if one.count]

    def by_length(self) -> tuple[list[str], list[list[float]]]:
        """Score of each arm on a quarter of the examples each, short to long."""
        words = np.array([len(str(row.get("input", "")).split()) for row in self.rows])
        parts = [p for p in np.array_split(np.argsort(words, kind="stable"), BINS) if len(p)]
        names = [f"{words[p].min()}-{words[p].max()} words" for p in parts]
        return names, [[float(row[p].mean()) for p in parts] for row in self.scores]

    def by_label(self) -> tuple[list[str], list[list[float]]]:
        """Score of each arm on the examples of each label."""
        truth = np.array([str(row["reference"]) for row in self.rows])
        there = [label for label in self.labels if (truth == label).any()]
        names = [f"{label} ({int((truth == label).sum())})" for label in there]
        return names, [[float(row[truth == n].mean()) for n in there] for row in self.scores]

    def confusion(self, arm: int) -> list[list[int]]:
        """Rows are references, columns answers, in label order."""
        pairs = Counter(
            (str(row["reference"]), said)
            for row, said in zip(self.rows, self.said[arm], strict=True)
        )
        return [[pairs[(a, b)] for b in self.labels] for a in self.labels]

    def confused(self, arm: int, most: int = 5) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: reference, answer, how often."""
        pairs = Counter(
            (str(row["reference"]), said)
            for row, said in zip(self.rows, self.said[arm], strict=True)
            if str(row["reference"]) != said
        )
        return [(a, b, n) for (a, b), n in pairs.most_common(most)]


def examples(arms: list[Arm]) -> Examples | None:
    """Every arm on the examples that all their runs answered; None where nothing is kept."""
    runs = [run for arm in arms for run in arm.runs]
    metric = next((m for m in OF_ONE if any(m in run["metrics"] for run in runs)), None)
    if metric is None:
        return None
    (measure,) = measures(metric, [])
    given = [(arm, [rows for run in arm.runs if (rows := read(run, measure))]) for arm in arms]
    given = [(arm, answers) for arm, answers in given if answers]
    if not given:
        return None
    usual = Counter(tuple(a) for _, every in given for a in every).most_common(1)[0][0]
    kept = [(arm, [a for a in every if tuple(a) == usual]) for arm, every in given]
    kept = [(arm, every) for arm, every in kept if every]
    scores = [
        np.mean([measure.parts(list(a.values()))[:, 0] for a in every], axis=0) for _, every in kept
    ]
    said = [
        [Counter(str(a[i]["prediction"]) for a in every).most_common(1)[0][0] for i in usual]
        for _, every in kept
    ]
    asked = list(kept[0][1][0].values())
    labels = labels_of(runs) if metric == OF_ONE[0] else []
    return Examples([arm.name for arm, _ in kept], metric, labels, asked, np.array(scores), said)
