"""Which way a number of `result.json` is better, by its key."""

from __future__ import annotations

from typing import Literal

Direction = Literal["minimize", "maximize"]

LOWER = frozenset(("loss", "perplexity", "bits_per_byte"))
HIGHER = frozenset(("accuracy", "token_accuracy", "exact_match", "bleu", "rouge_l", "chrf"))
AVERAGED = ("f1", "precision", "recall")
# Of the prices; every other one is the better the lower it is.
FAST = "cost/tokens_per_second"


def direction(key: str) -> Direction | None:
    """What a search does with it; None for a metric that is not ours."""
    if key.startswith("cost/"):
        return "maximize" if key == FAST else "minimize"
    name = key.split("/")[1] if "/" in key else key
    if name in LOWER:
        return "minimize"
    if name in HIGHER or name.startswith(AVERAGED):
        return "maximize"
    return None


def lower_is_better(key: str) -> bool:
    return direction(key) == "minimize"
