from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from llmexp.jobs.events import events


class Resend(pl.Callback):
    """Tells the loggers what happened before this process, out of `metrics.jsonl`.

    What a killed process told them was lost with its buffers. Steps up to `known` are not sent.
    """

    def __init__(self, folder: Path, known: int = -1):
        self.path = folder / "metrics.jsonl"
        self.known = known
        self.done = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._send(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that was stopped after its last step trains no more."""
        self._send(trainer)

    def _send(self, trainer: pl.Trainer) -> None:
        if self.done or not trainer.is_global_zero:
            return
        self.done = True
        for event in events(self.path):
            # Lightning's loggers count updates from 0: it is the number of the one just made.
            step = event.pop("step") - 1
            if self.known < step < trainer.global_step:
                del event["time"]
                for logger in trainer.loggers:
                    logger.log_metrics(event, step)
