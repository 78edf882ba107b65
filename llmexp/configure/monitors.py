"""Callbacks that keep or stop by a metric must know which way it is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmexp.metrics import direction

MODES = {"minimize": "min", "maximize": "max"}


def complaints(callbacks: Mapping[str, Any]) -> list[str]:
    """One sentence for each callback that would keep the worst instead of the best."""
    found = []
    for name, node in callbacks.items():
        given = dict(node or {})
        right = MODES.get(direction(str(given.get("monitor"))) or "")
        if right and given.get("mode", right) != right:
            found.append(
                f"callbacks.{name}.mode: is {given['mode']}, which is the wrong way round for "
                f"{given['monitor']}; callbacks.{name}.mode={right} is its direction"
            )
    return found
