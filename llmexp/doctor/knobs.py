"""Dead knobs: values somebody set for this experiment that nothing in it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmexp.configure.preflight import Experiment
from llmexp.doctor.origins import Origins


@dataclass(frozen=True)
class DeadKnob:
    key: str
    origin: str
    reason: str


def unread(e: Experiment) -> dict[str, str]:
    """Keys that nothing reads, and why: every object says it about itself and what it is given."""
    found = dict(e.strategy.unread(e.model, e.task))
    for prefix, spec in (("optim", e.optim), ("data", e.task), ("cache", e.config.cache)):
        found |= {f"{prefix}.{name}": why for name, why in spec.unread().items()}
    return found


def dead_knobs(e: Experiment, origins: Origins) -> list[DeadKnob]:
    """What the command line or an experiment set in vain."""
    reasons = unread(e)
    found = []
    for key, origin in origins.chosen.items():
        prefix = next((p for p in _prefixes(key) if p in reasons), None)
        if prefix is not None:
            found.append(DeadKnob(key, origin, reasons[prefix]))
    return found


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def as_rows(knobs: list[DeadKnob]) -> list[dict[str, Any]]:
    return [{"key": k.key, "from": k.origin, "reason": k.reason} for k in knobs]
