"""The mean of an arm with its 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmexp.compare.statistics.sample import Sample
from llmexp.compare.statistics.spread import spread

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds that hold the true one in 95 of 100 studies like this one."""

    mean: float
    low: float
    high: float


def interval(sample: Sample, runs: list[int]) -> Interval:
    """Of the mean over runs that differ in seed: covers test examples and, where several, seeds.

    Of a metric between 0 and 1 the bounds are Wilson's, so that they stay inside and hold near the
    ends, widened by what seeds add; of one right-or-wrong run they are Wilson's exactly. They are
    widened on the scale of log odds, where Wilson's bounds lie evenly around the mean: seeds that
    matter draw a mean near 1 down further than up.
    """
    from scipy.special import expit, logit
    from scipy.stats import norm

    mean = float(sample.values[runs].mean())
    found = spread(sample, [runs], [1.0])
    reach = found.reach(1 - LEVEL)
    if not sample.bounded:
        return Interval(mean, mean - reach, mean + reach)
    low, high = wilson(mean, _effective(mean, found.examples, sample.examples))
    usual = float(norm.ppf((1 + LEVEL) / 2)) * float(np.sqrt(found.examples))
    wider = reach / usual if usual > 0 and len(runs) > 1 else 1.0
    if not 0 < mean < 1:
        return Interval(mean, low, high)
    half = wider * float(logit(high) - logit(low)) / 2
    return Interval(mean, float(expit(logit(mean) - half)), float(expit(logit(mean) + half)))


def _effective(mean: float, variance: float, examples: int) -> float:
    """How many independent right-or-wrong examples would leave this variance."""
    if variance <= 0 or not 0 < mean < 1:
        return float(examples)
    # np.cov divides by N - 1, Wilson's variance by N.
    return mean * (1 - mean) / variance * examples / max(1, examples - 1)


def wilson(mean: float, count: float) -> tuple[float, float]:
    """Bounds of a proportion; the count need not be whole."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(mean * count, count, alpha=1 - LEVEL, method="wilson")
    # At 0 and 1 rounding puts a bound on the wrong side of the proportion.
    return min(float(low), mean), max(float(high), mean)
