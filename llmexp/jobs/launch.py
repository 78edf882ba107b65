"""Which process of a distributed run this is, and its folder; imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from llmexp.errors import UserError

PARENT = "LLMEXP_PARENT"
JOIN_SECONDS = 120.0


def keep_path() -> None:
    """Let the processes that this one starts import what it would, wherever they are started.

    Python looks for modules first where a process stands, and a run folder may hold anybody's.
    """
    if not sys.flags.safe_path:
        places = [sys.path[0], os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        os.environ["PYTHONSAFEPATH"] = "1"


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


def started_from_outside() -> int:
    """How many processes torchrun or SLURM started for this run; 1 where it was started by hand."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1))
    if "SLURM_PROCID" in os.environ and PARENT not in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1))
    return 1


def shared_folder(overrides: list[str], multirun: bool) -> Path:
    """The folder that processes which cannot talk to each other yet must agree on."""
    if multirun:
        raise UserError("-m: torchrun and srun start one run; start the jobs of a sweep one by one")
    for line in overrides:
        key, _, value = line.lstrip("+").partition("=")
        if key == "hydra.run.dir":
            return Path(value)
    raise UserError(
        "hydra.run.dir: must be given where torchrun or srun starts the processes, so that all "
        "share it, for example hydra.run.dir=outputs/big"
    )


def join(config: Path, tree: dict[str, Any]) -> None:
    """Wait until the first process has written the config that this one composed, too."""
    deadline = time.monotonic() + JOIN_SECONDS
    while time.monotonic() < deadline:
        if config.is_file():
            written = yaml.safe_load(config.read_text(encoding="utf-8"))
            written.pop("launch", None)
            # Through YAML as well: it reads 1e-05 as text, on both sides.
            if written == yaml.safe_load(yaml.safe_dump(tree)):
                return
        time.sleep(0.2)
    raise UserError(
        f"{config}: the first process wrote no such config within {JOIN_SECONDS:.0f} s; do all "
        "processes run the same command on one shared file system?"
    )


def end_with_parent() -> None:
    """Whoever started this process watches it; alone it would run on, or wait, unseen.

    A rank waits in a collective, so it ends at once. A job of a sweep saves first, as on SIGTERM.
    """
    parent = int(os.environ.get(PARENT, 0))
    if parent == 0:
        return
    rank = "LOCAL_RANK" in os.environ

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        print("the process that started this one is gone", file=sys.stderr, flush=True)
        if rank:
            os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()
