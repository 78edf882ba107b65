"""What each process of a run knows when it begins to train."""

import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from llmexp.jobs.job import read_config
from llmexp.sweeps.identity import identity


class Witness(pl.Callback):
    """Adds a line to `witness-RANK.jsonl`: rank, seed, the config it was given, where it begins."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        tree, _ = read_config(Path(sys.argv[1]))
        seen = {
            "rank": trainer.global_rank,
            "seed": pl_module.context.seed,
            "identity": identity(tree),
            "step": trainer.global_step,
        }
        path = pl_module.context.folder / f"witness-{trainer.global_rank}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(seen) + "\n")
