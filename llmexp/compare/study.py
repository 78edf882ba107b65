"""One test set: its arms, best first, what is proven about them, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmexp.compare.arms import Arm, arms
from llmexp.compare.comparison import Group, order
from llmexp.compare.evidence import Evidence, evidence
from llmexp.compare.price import mean_price
from llmexp.compare.statistics.interval import Interval
from llmexp.compare.verdict import Verdict
from llmexp.metrics import lower_is_better

# "As good as the best": one point of a metric between 0 and 1, one percent of any other.
NEAR = 0.01


Result = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """`arms` are best first by the mean of `group.metric`."""

    group: Group
    arms: list[Arm]
    evidence: Evidence

    @property
    def several(self) -> bool:
        """Whether some arm was run with more than one seed."""
        return any(arm.seeds > 1 for arm in self.arms)

    def quality(self, arm: Arm) -> float | None:
        return arm.mean("metrics", self.group.metric)

    def seeds(self, arm: Arm) -> int:
        """How many runs the mean of an arm is over."""
        return len(arm.measured(self.group.metric)) or arm.seeds

    def interval(self, arm: Arm) -> Interval | None:
        return self.evidence.intervals.get(arm)

    def front(self, key: str = "total_seconds") -> list[Arm]:
        """The arms that no other beats in quality without costing more: best first."""
        if self.group.foreign:
            return []
        ranked = [(arm, mean_price(arm)[key]) for arm in self.arms]
        known = [(a, p) for a, p in ranked if p is not None and self.quality(a) is not None]
        front, least = [], float("inf")
        for arm, cost in known:
            if cost < least:
                front.append(arm)
                least = cost
        return front

    def cheapest_near_best(self, key: str = "total_seconds") -> Arm | None:
        """The cheapest arm within one point of the best."""
        best = self.quality(self.arms[0]) if self.arms else None
        if best is None or self.group.foreign:
            return None
        slack = NEAR if not lower_is_better(self.group.metric) else NEAR * abs(best)
        # 0.90 - 0.89 is a little more than 0.01 in binary.
        near = [a for a in self.arms if self._behind(a, best) <= slack + 1e-9 * abs(best)]
        priced = [(cost, a) for a in near if (cost := mean_price(a)[key]) is not None]
        return min(priced, key=lambda pair: pair[0])[1] if priced else None

    def _behind(self, arm: Arm, best: float) -> float:
        value = self.quality(arm)
        return float("inf") if value is None else abs(best - value)

    def against_best(self) -> list[Verdict]:
        """The best arm against each of the others."""
        pairs = [self.evidence.of(self.arms[0], arm) for arm in self.arms[1:]]
        return [verdict for verdict in pairs if verdict is not None]


def study(group: Group, by: list[str] | None = None, early: list[Result] | None = None) -> Study:
    """Gather, rank and judge the completed runs of one test set.

    `early` ended before their rows were read: what they would have been tested on is not known.
    """
    found = arms(group.runs, by, [*(early or []), *group.unfinished])

    def rank(arm: Arm) -> tuple[Any, ...]:
        value = arm.mean("metrics", group.metric)
        return (*order({group.metric: value}, group.metric), mean_price(arm)["total_seconds"])

    ranked = sorted(found, key=rank)
    apart = group.vocabularies if group.foreign else [group.runs]
    return Study(group, ranked, evidence(ranked, group.metric, apart))
