"""Two arms on the same test examples: how far apart, and whether that can be chance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmexp.compare.statistics.interval import LEVEL
from llmexp.compare.statistics.sample import Sample
from llmexp.compare.statistics.spread import Spread, spread


@dataclass(frozen=True)
class Difference:
    """First arm minus second arm."""

    mean: float
    low: float
    high: float
    p: float
    spread: Spread
    test: str
    """How p was found."""
    alike: bool = False
    """Every run of both answered the same."""


def difference(sample: Sample, first: list[int], second: list[int]) -> Difference:
    """Compare the means of two arms, each a list of runs that differ in seed.

    One run each: McNemar's exact test where answers are right or wrong, else a paired bootstrap
    over examples. Several: the t test on the components of variance, which asks whether the
    *strategies* differ and not these runs.
    """
    mean = float(sample.values[first].mean() - sample.values[second].mean())
    found = spread(sample, [first, second], [1.0, -1.0])
    centre = mean
    if sample.bounded:
        runs = len(first) * len(second)
        centre, found = _adjusted(mean, found, sample.examples, runs)
    reach = found.reach(1 - LEVEL)
    p, test = _p_value(sample, first, second, centre, found)
    parts = sample.parts[first + second]
    alike = bool((parts == parts[0]).all())
    return Difference(mean, centre - reach, centre + reach, p, found, test, alike)


def _adjusted(mean: float, found: Spread, n: int, runs: int) -> tuple[float, Spread]:
    """As if two more examples had been seen, on each of which one run of an arm did better.

    Bonett and Price (Journal of Educational and Behavioral Statistics 37, 2012): the plain interval
    of a paired difference of proportions is too narrow where arms rarely disagree.
    """
    squares = n * (n - 1) * found.examples + n * mean**2 + 2 / runs
    centre = mean * n / (n + 2)
    examples = (squares / (n + 2) - centre**2) / (n + 2)
    variance = found.variance + examples - found.examples
    return centre, replace(found, variance=variance, examples=examples)


def _p_value(
    sample: Sample, first: list[int], second: list[int], centre: float, found: Spread
) -> tuple[float, str]:
    if len(first) > 1 or len(second) > 1:
        return found.p_value(centre), "components of variance"
    if sample.binary:
        return mcnemar(sample, first[0], second[0]), "McNemar"
    drawn = sample.replicates[first[0]] - sample.replicates[second[0]]
    seen = sample.values[first[0]] - sample.values[second[0]]
    # As if there were no difference: the resamples moved to zero (Koehn 2004 resamples the same).
    beyond = int((np.abs(drawn - seen) >= abs(seen)).sum())
    p = (1 + beyond) / (1 + len(drawn))
    # Nothing as far in all the resamples: how much rarer it is, they cannot say.
    p = p if beyond else min(p, found.p_value(centre))
    return p, "paired bootstrap"


def mcnemar(sample: Sample, first: int, second: int) -> float:
    """The exact p of two runs that are each right or wrong on every example."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    a, b = sample.scores[first] > 0, sample.scores[second] > 0
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    return float(min(1.0, test(table, exact=True).pvalue))


def holm(p_values: list[float]) -> list[float]:
    """The p values, each raised for how many questions were asked (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []
