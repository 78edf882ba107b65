"""A bar: what is computed from a round's reports, and what its median must reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contest.sides import OURS, Report

# From ours and the other's figure; whether more is better; how the value is written.
HOW: dict[str, tuple[Callable[[float, float], float], bool, str]] = {
    "faster": (lambda a, b: b / a, True, "{:.2f}x"),
    "rate": (lambda a, b: a / b, True, "{:.2f}x"),
    "share": (lambda a, b: a / b, False, "{:.2f}x"),
    "roof": (lambda a, b: a / b, True, "{:.0%}"),
    "over": (lambda a, b: a - b, False, "{:.2f}"),
    "apart": (lambda a, b: abs(a - b), False, "{:.2f}"),
    "gain": (lambda a, b: a - b, True, "{:+.3f}"),
    "alone": (lambda a, b: a, False, "{:.2f}"),
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Ours against one other of the same rounds; `other` is ours where it stands alone."""

    number: str
    work: str
    measure: str
    """The key of a report: fit_seconds, tokens_per_second, peak_memory_mb ..."""
    how: str
    """A key of HOW: faster (seconds), rate, share, over, apart, gain, alone, roof."""
    limit: float | None = None
    """What the median must reach; None reports it."""
    other: str = OURS
    who: str = OURS

    def value(self, reports: dict[str, Report]) -> float | None:
        """Of one round; None where one of the two was not there."""
        if self.who not in reports or self.other not in reports:
            return None
        # The share of the roof is the one figure that both name alike.
        a, b = reports[self.who].get(self.measure), reports[self.other].get(self.measure)
        return None if a is None or b is None else HOW[self.how][0](a, b)

    def line(self, rounds: list[dict[str, Report]]) -> dict[str, Any]:
        """What the table says about it; without a value where no round has both."""
        values = [v for v in map(self.value, rounds) if v is not None]
        middle = statistics.median(values) if values else None
        alone = self.other == self.who
        return {
            "number": self.number,
            "work": self.work,
            "against": "" if alone else self.other,
            "measure": self.measure,
            "how": self.how,
            "ours": self.median(rounds, self.who) if values else None,
            "other": None if alone or not values else self.median(rounds, self.other),
            "value": middle,
            "values": values,
            "bar": self.limit,
            "more_is_better": HOW[self.how][1],
            "met": self.met(middle),
            "state": self.state(middle, rounds),
        }

    def met(self, middle: float | None) -> bool | None:
        """None where there is no limit, or nothing to hold against it."""
        if self.limit is None or middle is None:
            return None
        return middle == self.limit or (middle > self.limit) == HOW[self.how][1]

    def state(self, middle: float | None, rounds: list[dict[str, Report]]) -> str:
        """met, MISSED or reported; where there is no value: who failed, or not measured.

        A side that failed in one round of several is named too.
        """
        names = dict.fromkeys((self.who, self.other))
        failed = [name for name in names if any("failed" in r.get(name, {}) for r in rounds)]
        told = f"{' and '.join(failed)} FAILED" if failed else "not measured"
        if middle is None:
            return told
        found = {True: "met", False: "MISSED", None: "reported"}[self.met(middle)]
        return f"{found}, {told} once" if failed else found

    def median(self, rounds: list[dict[str, Report]], who: str) -> float:
        return statistics.median(r[who][self.measure] for r in rounds if self.value(r) is not None)


def written(line: dict[str, Any], key: str = "value") -> str:
    """The value, or the bar, of a line as a person reads it."""
    if line[key] is None:
        return "-"
    return HOW[line["how"]][2].format(line[key])
