"""Progress for people: a bar in a terminal, a line an epoch where there is none."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar


def progress() -> pl.Callback:
    return RichProgressBar(leave=False) if sys.stdout.isatty() else ProgressLines()


class ProgressLines(pl.Callback):
    """A line at most every `seconds` and after every validation: logs stay readable."""

    def __init__(self, seconds: float = 15.0):
        self.seconds = seconds
        self.last = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and time.monotonic() - self.last > self.seconds:
            self.last = time.monotonic()
            total = int(trainer.estimated_stepping_batches)
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            print(f"step {trainer.global_step}/{total}  train/loss {loss:.4f}", flush=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            values = trainer.callback_metrics
            shown = [k for k in ("val/loss", "val/accuracy", "val/perplexity") if k in values]
            text = "  ".join(f"{k} {float(values[k]):.4f}" for k in shown)
            print(f"epoch {trainer.current_epoch + 1}  {text}", flush=True)
