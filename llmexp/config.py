"""What a YAML node may hold: the `spec` decorator and the root of every run.

A spec is a frozen, keyword-only pydantic dataclass: unknown keys, wrong types and values out of
range are refused, its constructor does no I/O, and its module imports nothing heavy.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

T = TypeVar("T")

# Numbers are strict: `true` is no 1 and "8" no 8.
Fraction = Annotated[float, Field(ge=0, lt=1, strict=True)]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
# A name that becomes a folder: no separators, no leading dot, so it cannot climb.
PathName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def spec(cls: type[T]) -> type[T]:
    """Make `cls` the schema of a YAML node: its fields are the node's keys."""
    settings = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True
    )
    made: Any = dataclass(frozen=True, kw_only=True, config=settings)(cls)
    return made


def is_spec(target: Any) -> bool:
    return isinstance(target, type) and hasattr(target, "__pydantic_fields__")


@spec
class Cache:
    """Where frozen features and tokens are kept between runs."""

    enabled: bool
    dir: str
    max_gb: Annotated[float, Field(gt=0)]

    def unread(self) -> dict[str, str]:
        """Fields that nothing reads as the others are set, and why."""
        why = "cache.enabled=false: nothing is kept"
        return {} if self.enabled else dict.fromkeys(("dir", "max_gb"), why)


@spec
class Rates:
    """What a machine costs, for `cost.money` and `cost.energy_kwh` of `result.json`."""

    per_hour: NonNegativeFloat | None = None
    """In any currency; null leaves money out."""
    watts: NonNegativeFloat | None = None
    """What it draws while it works; null leaves energy out."""

    def priced(self, seconds: float) -> dict[str, float | None]:
        """So many seconds as money and as energy."""
        hours = seconds / 3600
        return {
            "money": None if self.per_hour is None else self.per_hour * hours,
            "energy_kwh": None if self.watts is None else self.watts * hours / 1000,
        }


@spec
class Choices:
    """Which file of each group was composed; these become the names in `result.json`."""

    strategy: str
    model: str
    data: str
    hardware: str


@spec
class RunConfig:
    """The root: one experiment. Groups are built by their own `_target_`."""

    name: PathName
    seed: NonNegativeInt
    resume: Literal["never", "auto"]
    dry: bool
    preview: bool
    objective: str
    """The metric a sweeper optimises, by its key in `result.json`."""
    choices: Choices
    tags: list[str]
    strategy: Any
    model: Any
    data: Any
    optim: Any
    hardware: dict[str, Any]
    trainer: dict[str, Any]
    callbacks: dict[str, Any]
    tracking: Any
    cache: Cache
    cost: Rates = Rates()
