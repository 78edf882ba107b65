"""Processes for a race: forked, so that they begin together, but not from a test process."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

LARGE = ["torch", "pytorch_lightning", "transformers", "peft", "datasets"]


def clean() -> ForkServerContext:
    """Forks of a process that has no threads, and has imported what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LARGE)
    return context
