"""BLEU and chrF, scores of a whole corpus, from counts of each answer that add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llmexp.compare.statistics.sample import Numbers

Row = dict[str, Any]

# Orders of n-grams: of words in BLEU; of characters and of words in chrF, which counts recall
# twice as much as precision.
BLEU_ORDERS = 4
CHRF_ORDERS = 6 + 2
CHRF_RECALL = 2.0


def bleu_counts(rows: list[Row]) -> Numbers:
    """[N, 10]: what matched and what was said of each order, both lengths."""
    from torchmetrics.text import SacreBLEUScore

    return _counts(rows, SacreBLEUScore(), ("numerator", "denominator", "preds_len", "target_len"))


def bleu(mean: Numbers) -> Numbers:
    """From the means of the counts: it does not depend on their scale."""
    matched, said = mean[..., :BLEU_ORDERS], mean[..., BLEU_ORDERS : 2 * BLEU_ORDERS]
    length, wanted = mean[..., -2], mean[..., -1]
    zero = matched.min(axis=-1) == 0
    share = np.where(zero[..., None], 1.0, matched) / np.where(said > 0, said, 1.0)
    short = np.exp(np.minimum(0.0, 1 - wanted / np.where(length > 0, length, 1.0)))
    return np.where(zero, 0.0, short * np.exp(np.log(share).mean(axis=-1)))


def chrf_counts(rows: list[Row]) -> Numbers:
    """[N, 24]: of each order what matched, what was said, what was asked for."""
    from torchmetrics.text import CHRFScore

    metric: Any = CHRFScore()
    orders = [("char", n + 1) for n in range(metric.n_char_order)]
    orders += [("word", n + 1) for n in range(metric.n_word_order)]
    kinds = ("matching", "preds", "target")
    return _counts(rows, metric, [f"total_{k}_{u}_{n}_grams" for k in kinds for u, n in orders])


def chrf(mean: Numbers) -> Numbers:
    """The mean over orders of their F score."""
    matched, said, wanted = np.split(mean, 3, axis=-1)
    precision = matched / np.where(said > 0, said, 1.0)
    recall = matched / np.where(wanted > 0, wanted, 1.0)
    weight = CHRF_RECALL**2
    below = np.maximum(weight * precision + recall, 1e-16)
    scores: Numbers = (1 + weight) * precision * recall / below
    return scores.sum(axis=-1) / CHRF_ORDERS


def _counts(rows: list[Row], metric: Any, names: Any) -> Numbers:
    """What one answer adds to a metric, by what the metric holds after it alone."""
    made = []
    for row in rows:
        metric.reset()
        metric.update([row["prediction"].strip()], [[row["reference"].strip()]])
        state = metric.metric_state
        made.append(np.concatenate([np.atleast_1d(state[name].numpy()) for name in names]))
    return np.array(made, dtype=np.float64)


# By metric: the counts of each answer, and the metric from their means.
CORPUS: dict[str, tuple[Callable[[list[Row]], Numbers], Callable[[Numbers], Numbers]]] = {
    "bleu": (bleu_counts, bleu),
    "chrf": (chrf_counts, chrf),
}
