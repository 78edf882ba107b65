"""Which experiment a job is: a hash of its resolved config, without what changes no number."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# Names, watchers, folders and switches of the program; the rest decides what is computed.
SWITCHES = ("cache", "resume", "dry", "preview", "objective", "tracking", "cost", "launch", "hydra")
NOISE = frozenset(("name", "tags", "choices", *SWITCHES))
TRAINER_NOISE = frozenset(("log_every_n_steps", "enable_model_summary", "profiler"))


def identity(tree: dict[str, Any]) -> str:
    """The hash of a resolved experiment tree; equal for equal experiments, wherever they run."""
    text = json.dumps(_exact(decisive(tree)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decisive(tree: dict[str, Any]) -> dict[str, Any]:
    """What of an experiment tree can change a number, the seed included."""
    kept = {key: value for key, value in tree.items() if key not in NOISE}
    trainer = kept.get("trainer") or {}
    kept["trainer"] = {k: v for k, v in trainer.items() if k not in TRAINER_NOISE}
    cache = (tree.get("cache") or {}).get("dir")
    return {key: _placeless(value, cache) for key, value in kept.items()}


def is_decisive(key: str) -> bool:
    """The same of a flat key such as strategy.rank."""
    root, _, rest = key.partition(".")
    return root not in NOISE and not (root == "trainer" and rest.split(".")[0] in TRAINER_NOISE)


def _placeless(node: Any, cache: str | None) -> Any:
    """The tree without the place of the cache, which some nodes repeat."""
    if isinstance(node, dict):
        return {str(key): _placeless(value, cache) for key, value in node.items()}
    if isinstance(node, list):
        return [_placeless(value, cache) for value in node]
    return node.replace(cache, "") if isinstance(node, str) and cache else node


def _exact(node: Any) -> Any:
    """The tree with its floats as text."""
    if isinstance(node, dict):
        return {key: _exact(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_exact(value) for value in node]
    # A config that was written and read again holds 1e-05 as text.
    return f"{node:.17g}" if isinstance(node, float) else node
