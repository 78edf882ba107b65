"""What a run or an arm cost, with work that was cached at the price it had when it was done."""

from __future__ import annotations

from typing import Any

from llmexp.compare.arms import Arm
from llmexp.compare.figures import memory, seconds, short
from llmexp.jobs.price import charged_seconds

Result = dict[str, Any]

# What a table may show, in order: key -> what it is.
PRICES = {
    "train_seconds": "training, with frozen features at the price they had when first computed",
    "total_seconds": "the whole run, with the same",
    "money": "total seconds at cost.per_hour",
    "energy_kwh": "total seconds at cost.watts",
    "trainable_parameters": "trained parameters",
    "peak_memory_mb": "peak memory",
    "tokens_per_second": "trained",
    "estimated_flops": "floating point operations of training, estimated",
}
TITLES = {
    "train_seconds": "train",
    "total_seconds": "total",
    "money": "money",
    "energy_kwh": "kWh",
    "trainable_parameters": "trained",
    "peak_memory_mb": "memory",
    "tokens_per_second": "tokens/s",
    "estimated_flops": "FLOPs",
}


def price(run: Result) -> dict[str, float | None]:
    """Every price of one run; None where it was not recorded."""
    cost = run["cost"]
    prefix = cost.get("prefix_seconds", 0.0)
    found: dict[str, float | None] = {name: cost.get(name) for name in PRICES}
    found["train_seconds"] = cost["fit_seconds"] + prefix
    found["total_seconds"] = charged_seconds(cost)
    return found


def mean_price(arm: Arm) -> dict[str, float | None]:
    """The mean over an arm's runs, of each price that one of them has."""
    every = [price(run) for run in arm.runs]
    return {name: _mean([one[name] for one in every]) for name in PRICES}


def recorded(every: list[dict[str, float | None]]) -> list[str]:
    """Prices that some row has; nothing else gets a column."""
    return [name for name in PRICES if any(one[name] is not None for one in every)]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def amount(name: str, value: float | None) -> str:
    """A price as a table shows it."""
    if value is None:
        return "-"
    if name.endswith("_seconds"):
        return seconds(value)
    if name == "peak_memory_mb":
        return memory(value)
    if name in ("money", "energy_kwh"):
        return f"{value:.3g}"
    if name == "estimated_flops":
        return f"{value:.2g}"
    return short(round(value))
