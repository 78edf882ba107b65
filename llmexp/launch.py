"""Which process of a distributed run this is; imports nothing heavy."""

from __future__ import annotations

import os
import sys
import threading
import time

PARENT = "LLMEXP_PARENT"


def global_rank() -> int:
    """This process's number over all nodes, from torchrun, SLURM, or our own start of ranks."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            rank = int(os.environ[name])
            # Nodes started by hand count ranks from 0 on each.
            return rank + int(os.environ.get("NODE_RANK", 0)) if name == "LOCAL_RANK" else rank
    return 0


def is_first() -> bool:
    """Whether this process writes for all of them."""
    return global_rank() == 0


def end_with_parent() -> None:
    """A rank whose first process is gone would wait in a collective: end it instead."""
    parent = int(os.environ.get(PARENT, 0))
    if parent == 0 or "LOCAL_RANK" not in os.environ:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        print("the first process is gone", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()
