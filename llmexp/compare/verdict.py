"""Two arms and a plain sentence on which is better, or what it would take to tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmexp.compare.statistics.difference import Difference
from llmexp.compare.statistics.sample import Numbers, Sample
from llmexp.metrics import lower_is_better

LEVEL = 0.05
POWER = 0.8
# Beyond so many times what there is, more of it is no plan.
FAR = 1000.0
# A way that takes so many times the effort of another is not worth naming beside it.
FARTHER = 10.0


@dataclass(frozen=True)
class Verdict:
    """`p` is corrected for all the pairs that were asked about (Holm)."""

    first: str
    second: str
    difference: Difference
    p: float
    metric: str
    sample: Sample
    seeds: tuple[int, int]
    pairs: int

    @property
    def real(self) -> bool:
        """Whether chance is ruled out."""
        return self.p < LEVEL

    @property
    def better(self) -> str:
        """The arm that looks better, proven or not."""
        ahead = (
            self.difference.mean < 0 if lower_is_better(self.metric) else self.difference.mean > 0
        )
        return self.first if ahead else self.second

    @property
    def sentence(self) -> str:
        d = self.difference
        if not self.real:
            return f"{self.first} and {self.second} are not distinguishable: {self._needed()}"
        other = self.second if self.better == self.first else self.first
        low, high = sorted((abs(d.low), abs(d.high)))
        if d.low < 0 < d.high:
            low = 0.0
        return f"{self.better} is better than {other} by {self._range(low, high)}"

    def _range(self, low: float, high: float) -> str:
        if self.sample.bounded:
            return f"{100 * low:.1f} to {100 * high:.1f} points"
        return f"{low:.3g} to {high:.3g} {self.metric.rpartition('/')[2]}"

    def _amount(self, value: float) -> str:
        if self.sample.bounded:
            return f"{100 * value:.1f} points"
        return f"{value:.3g} {self.metric.rpartition('/')[2]}"

    def _needed(self) -> str:
        """How much more would tell a difference of the size that is seen."""
        d, count = self.difference, max(self.seeds)
        if d.alike:
            return "they answer alike"
        ways = self._ways(count)
        if ways:
            enough = [way for times, way in ways if times <= FARTHER * ways[0][0]]
            return f"{' or '.join(enough)} would be needed"
        spread = d.spread
        times = self._least(lambda k: (spread.variance / k, spread.between / k, k))
        if times is not None and count > 1:
            seeds, examples = _round(count * times), _round(self.sample.examples * times)
            return f"about {seeds:,} seeds of each and {examples:,} test examples would be needed"
        return f"any difference is below {self._amount(max(abs(d.low), abs(d.high)))}"

    def _ways(self, count: int) -> list[tuple[float, str]]:
        """More of one thing alone that would do: how many times as much, the least first."""
        spread, found = self.difference.spread, []
        luck = max(0.0, spread.between - spread.seeds)
        times = self._least(
            lambda k: (spread.examples / k + spread.seeds, spread.seeds + luck / k, 1.0)
        )
        if times is not None:
            more = _round(self.sample.examples * (times - 1))
            found.append((times, f"{more:,} more test examples"))
        # Luck of seed and example together falls with seeds too; what all seeds share does not.
        shared = spread.variance - spread.between
        times = self._least(lambda k: (shared + spread.between / k, spread.between / k, k))
        if times is not None and count > 1:
            found.append((times, f"about {_round(count * times):,} seeds of each"))
        return sorted(found)

    def _least(self, effort: Callable[[float], tuple[float, float, float]]) -> float | None:
        """How many times the effort finds such a difference in four studies of five.

        `effort` gives for a multiple the variance, the one between seeds alone, and by how much
        their degrees of freedom grow.
        """
        from scipy.stats import t

        spread, multiples = self.difference.spread, np.geomspace(1.01, FAR, 700)
        variance, between, grown = np.array([effort(k) for k in multiples]).T

        def reach(part: Numbers, freedom: Numbers) -> Numbers:
            steps = t.ppf(1 - LEVEL / 2 / max(1, self.pairs), freedom) + t.ppf(POWER, freedom)
            return np.asarray(steps * np.sqrt(part))

        whole = reach(variance, spread.freedom * grown)
        far = np.maximum(whole, reach(between, spread.between_freedom * grown))
        enough = multiples[abs(self.difference.mean) >= far]
        return float(enough[0]) if len(enough) and self.difference.mean else None


def _round(count: float) -> int:
    """Two digits: more would be false."""
    size = 10 ** max(0, int(math.log10(max(count, 1))) - 1)
    return math.ceil(count / size) * size
