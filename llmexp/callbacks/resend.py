from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from llmexp.jobs.results import read_lines


class Resend(pl.Callback):
    """Tells a tracker what happened before this process, out of `metrics.jsonl`.

    A killed run's own file may hold nothing but its header. What the tracker knows already, by its
    last step, is not sent again.
    """

    def __init__(self, folder: Path, run: Any):
        self.path = folder / "metrics.jsonl"
        self.run = run
        self.done = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._send(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that was stopped after its last step trains no more."""
        self._send(trainer)

    def _send(self, trainer: pl.Trainer) -> None:
        if self.done or not self.path.is_file():
            return
        self.done = True
        known = self.run.summary.get("trainer/global_step", -1)
        for event in read_lines(self.path):
            # Lightning's loggers count updates from 0: it is the number of the one just made.
            step = event.pop("step") - 1
            if known < step < trainer.global_step:
                del event["time"]
                self.run.log({"trainer/global_step": step, **event})
