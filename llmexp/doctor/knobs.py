"""Dead knobs: values somebody set for this experiment that nothing in it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmexp.configure import allow
from llmexp.configure.preflight import Experiment
from llmexp.doctor.origins import Origins

# Callbacks that stop no training, and the one that may: of others nobody can tell.
KNOWN = {"checkpoint", "guard", "early_stopping"}


@dataclass(frozen=True)
class DeadKnob:
    key: str
    origin: str
    reason: str


def unread(e: Experiment, sweeps: bool = False) -> dict[str, str]:
    """Keys that nothing reads, and why: every object says it about itself and what it is given."""
    found = e.tracking.unread()
    if sweeps:
        found.pop("objective", None)
    found |= of_callbacks(e.config.callbacks) | of_trainer(e)
    for prefix, spec in (("optim", e.optim), ("data", e.task), ("cache", e.config.cache)):
        found |= {f"{prefix}.{name}": why for name, why in spec.unread().items()}
    # Last: what a strategy never reads is not read however the others are set.
    return found | e.strategy.unread(e.model, e.task)


def of_callbacks(nodes: dict[str, Any]) -> dict[str, str]:
    """What the classes say of their nodes; one from elsewhere says nothing."""
    found: dict[str, str] = {}
    for name, node in nodes.items():
        ask = getattr(allow.resolve(node["_target_"]), "unread", None) if node else None
        reasons = ask(node) if ask is not None else {}
        found |= {f"callbacks.{name}.{key}": why for key, why in reasons.items()}
    return found


def of_trainer(e: Experiment) -> dict[str, str]:
    """Arguments of Lightning's Trainer that change nothing as the others are set."""
    nodes = {name: node for name, node in e.config.callbacks.items() if node is not None}
    found = {"trainer.limit_predict_batches": "no run predicts: it trains, validates and tests"}
    if not e.config.trainer.get("gradient_clip_val"):
        why = "trainer.gradient_clip_val=null: nothing is clipped"
        found["trainer.gradient_clip_algorithm"] = why
    patience = nodes.get("early_stopping", {}).get("patience")
    if patience is None and nodes.keys() <= KNOWN:
        why = "nothing stops early: callbacks.early_stopping.patience=null"
        found |= dict.fromkeys(("trainer.min_epochs", "trainer.min_steps"), why)
    return found


def dead_knobs(e: Experiment, origins: Origins) -> list[DeadKnob]:
    """What the command line or an experiment set in vain."""
    reasons = unread(e, origins.job.sweeps)
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
