"""How a metric follows from single answers, so that its chance can be worked out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llmexp.compare.answers import LOSSES, PREDICTIONS
from llmexp.compare.corpus import CORPUS
from llmexp.compare.statistics.sample import Numbers, Value, means

Row = dict[str, Any]
# predictions.jsonl rounds probabilities to six digits.
SMALLEST = 5e-7


@dataclass(frozen=True)
class Measure:
    """`parts(rows)` [N, P] are numbers of each example; the metric is `value` of their means."""

    file: str
    parts: Callable[[list[Row]], Numbers]
    value: Value = means
    bounded: bool = True
    needs: tuple[str, ...] = ("reference", "prediction")
    """Keys that a row must have."""
    tolerance: float = 1e-4
    """How far the metric may lie from the one in result.json, relatively: rounding."""


def measures(metric: str, labels: list[str]) -> list[Measure]:
    """The ways in which a metric may follow from what runs keep; none for one that is not ours."""
    name = metric.rpartition("/")[2] if not metric.startswith("test/f1/") else metric[5:]
    if name.startswith("f1/") and name[3:] not in labels:
        return []
    if name.startswith("f1/") or name in MACRO:
        value = MACRO.get(name) or partial(_f1_of, at=labels.index(name[3:]))
        return [Measure(PREDICTIONS, partial(_counts, labels=labels), value)]
    return KNOWN.get(name, [])


def _right(rows: list[Row]) -> Numbers:
    return _column([row["prediction"] == row["reference"] for row in rows])


def _equal(rows: list[Row]) -> Numbers:
    return _column([row["prediction"].strip() == row["reference"].strip() for row in rows])


def _rouge(rows: list[Row]) -> Numbers:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = [(row["reference"].strip(), row["prediction"].strip()) for row in rows]
    return _column([scorer.score(*pair)["rougeL"].fmeasure for pair in pairs])


def _surprise(rows: list[Row]) -> Numbers:
    """Minus the logarithm of the probability that the right label got."""
    given = np.array([row["scores"][row["reference"]] for row in rows], dtype=np.float64)
    return -np.log(np.clip(given, SMALLEST, None))[:, None]


def _column(values: list[Any]) -> Numbers:
    return np.array(values, dtype=np.float64)[:, None]


def _counts(rows: list[Row], labels: list[str]) -> Numbers:
    """[N, 3 K]: for each label whether it was hit, was the reference, was predicted."""
    index = {name: i for i, name in enumerate(labels)}
    found = np.zeros((len(rows), 3, len(labels)))
    for i, row in enumerate(rows):
        # What is none of the labels counts for none of them.
        for place, answer in ((1, row["reference"]), (2, row["prediction"])):
            if answer in index:
                found[i, place, index[answer]] = 1
    found[:, 0] = found[:, 1] * found[:, 2]
    return found.reshape(len(rows), -1)


def _split(mean: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    hits, references, predictions = np.split(mean, 3, axis=-1)
    return hits, references, predictions


def _ratio(above: Numbers, below: Numbers) -> Numbers:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _macro(mean: Numbers, pick: Callable[..., tuple[Numbers, Numbers]]) -> Numbers:
    """The mean over labels that occur, as torchmetrics takes it."""
    hits, references, predictions = _split(mean)
    occurs = references + predictions > 0
    scores: Numbers = _ratio(*pick(hits, references, predictions))
    return _ratio((scores * occurs).sum(-1), occurs.sum(-1).astype(np.float64))


def _f1_of(mean: Numbers, at: int) -> Numbers:
    hits, references, predictions = _split(mean)
    return _ratio(2 * hits[..., at], references[..., at] + predictions[..., at])


def _per(above: str, below: str, rows: list[Row]) -> Numbers:
    return np.array([[row[above], row[below]] for row in rows], dtype=np.float64)


def _quotient(mean: Numbers) -> Numbers:
    return mean[..., 0] / mean[..., 1]


def _perplexity(mean: Numbers) -> Numbers:
    return np.exp(_quotient(mean))


def _bits(mean: Numbers) -> Numbers:
    return _quotient(mean) / np.log(2)


MACRO: dict[str, Value] = {
    "f1_macro": partial(_macro, pick=lambda h, r, p: (2 * h, r + p)),
    "recall_macro": partial(_macro, pick=lambda h, r, p: (h, r)),
    "precision_macro": partial(_macro, pick=lambda h, r, p: (h, p)),
}
_PER_TOKEN = partial(_per, "nats", "tokens")
KNOWN: dict[str, list[Measure]] = {
    "accuracy": [Measure(PREDICTIONS, _right)],
    "exact_match": [Measure(PREDICTIONS, _equal)],
    "rouge_l": [Measure(PREDICTIONS, _rouge)],
    **{name: [Measure(PREDICTIONS, *corpus)] for name, corpus in CORPUS.items()},
    "loss": [
        Measure(LOSSES, _PER_TOKEN, _quotient, False, ("nats", "tokens"), 1e-3),
        Measure(PREDICTIONS, _surprise, means, False, ("reference", "scores"), 2e-3),
    ],
    "perplexity": [Measure(LOSSES, _PER_TOKEN, _perplexity, False, ("nats", "tokens"), 1e-2)],
    "bits_per_byte": [
        Measure(LOSSES, partial(_per, "nats", "bytes"), _bits, False, ("nats", "bytes"), 1e-3)
    ],
    "token_accuracy": [
        Measure(LOSSES, partial(_per, "right", "tokens"), _quotient, True, ("right", "tokens"))
    ],
}
