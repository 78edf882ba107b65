"""llmexp: one experiment, every way of using a language model, from YAML to result."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def load(path: str) -> Any:
    """The trained predictor of a run folder or of its `model/` folder (`llmexp.predict`)."""
    from llmexp.predict.load import load as load_predictor

    return load_predictor(path)
