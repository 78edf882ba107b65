"""Who watches a run. Training never depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmexp.config import spec

if TYPE_CHECKING:
    from llmexp.context import Context
    from llmexp.preflight import Experiment


@spec
class NoTracking:
    """Nobody watches; `metrics.jsonl` is written all the same."""

    def logger(self, experiment: Experiment, context: Context) -> Any:
        return False
