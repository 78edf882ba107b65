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
    kept = {key: value for key, value in tree.items() if key not in NOISE}
    trainer = kept.get("trainer") or {}
    kept["trainer"] = {k: v for k, v in trainer.items() if k not in TRAINER_NOISE}
    cache = (tree.get("cache") or {}).get("dir")
    text = json.dumps(_placeless(kept, cache), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _placeless(node: Any, cache: str | None) -> Any:
    """The tree without the place of the cache, which some nodes repeat."""
    if isinstance(node, dict):
        return {str(key): _placeless(value, cache) for key, value in node.items()}
    if isinstance(node, list):
        return [_placeless(value, cache) for value in node]
    # A config that was written and read again holds 1e-05 as text.
    if isinstance(node, float):
        return f"{node:.17g}"
    return node.replace(cache, "") if isinstance(node, str) and cache else node
