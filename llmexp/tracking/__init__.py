"""Who watches a run. Training never depends on it; `metrics.jsonl` is written all the same."""

from llmexp.tracking.base import NoTracking, Tracking

__all__ = ["NoTracking", "Tracking"]
