"""What a search may choose from: ranges and choices by key, from YAML or the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from pydantic import Field

from llmexp.config import spec
from llmexp.errors import UserError, shown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Whole = Annotated[int, Field(strict=True)]
Number = Whole | Annotated[float, Field(strict=True, allow_inf_nan=False)]
# Digits that make a difference between two trials.
DIGITS = 6


@spec
class Range:
    """Numbers from `low` to `high`, both possible; whole ones where both are."""

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    def complaint(self) -> str | None:
        """Why nothing can be drawn from it, or None."""
        if self.low > self.high:
            return f"low {self.low} is above high {self.high}"
        if self.log and self.low <= 0:
            return f"low must be above 0 where log is true, not {self.low}"
        if self.log and self.step is not None:
            return "step and log exclude each other; leave one out"
        return None

    @property
    def whole(self) -> bool:
        return all(isinstance(n, int) for n in (self.low, self.high, self.step or 1))

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(
                int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def ends(self) -> list[str]:
        """Values to check before the search starts."""
        return [self.text(self.low), self.text(self.high)]

    def text(self, value: Any) -> str:
        """A drawn value as an override gives it."""
        return str(value) if self.whole else f"{value:.{DIGITS}g}"


@spec
class Choice:
    """One of several values, without an order."""

    choices: Annotated[list[Any], Field(min_length=1)]

    def complaint(self) -> str | None:
        plain = all(isinstance(v, (str, int, float, bool, type(None))) for v in self.choices)
        return None if plain else "choices must be plain values: texts, numbers, true, false, null"

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def ends(self) -> list[str]:
        return [self.text(value) for value in self.choices]

    def text(self, value: Any) -> str:
        return value if isinstance(value, str) else shown(value)


Space = dict[str, Range | Choice]


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every range of a nested node by its dotted key."""
    if not isinstance(node, dict):
        raise UserError(f"hydra.sweeper.space.{key}: give {{low: A, high: B}} or {{choices: [A]}}")
    if {"low", "high", "choices"} & node.keys():
        yield key, node
        return
    for name, below in node.items():
        yield from leaves(below, f"{key}.{name}" if key else str(name))


def of_override(override: Override) -> Range | Choice:
    """What Hydra's sweep syntax says: `a=1,2`, `a=range(1,9)`, `a=tag(log, interval(1e-5, 1))`."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        return Range(low=value.start, high=value.end, log="log" in value.tags)
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        whole = all(isinstance(n, int) for n in (value.start, value.stop, value.step))
        if whole and value.step == 1:
            return Range(low=value.start, high=value.stop - 1)
    return Choice(choices=list(override.sweep_string_iterator()))


def probes(space: Space) -> list[dict[str, str]]:
    """Few jobs in which every end of every range, and every choice, comes up once."""
    ends = {key: found.ends() for key, found in space.items()}
    longest = max((len(values) for values in ends.values()), default=1)
    return [{key: v[min(i, len(v) - 1)] for key, v in ends.items()} for i in range(longest)]


def without(space: Space, fixed: Iterable[str]) -> Space:
    """The space where some keys have a value already."""
    given = set(fixed)
    return {key: found for key, found in space.items() if key not in given}
