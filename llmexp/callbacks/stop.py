from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from llmexp.callbacks.checkpoint import Checkpoint
from llmexp.jobs.signals import Signals


class Stop(pl.Callback):
    """SIGTERM or Ctrl-C in training: every process finishes the step, `last.ckpt` is saved.

    Lightning would save nothing on Ctrl-C, exit 0 on SIGTERM, and start a collective from inside
    the signal handler.
    """

    def __init__(self, signals: Signals):
        self.signals = signals

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.signals.others = list(getattr(trainer.strategy.launcher, "procs", []))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.take()
        self.signals.patient = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.signals.patient:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.patient = False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.take()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.take()

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        """All processes stop at the same step, whichever was asked."""
        number = self.signals.asked
        if trainer.world_size > 1:
            said = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(said, reduce_op="max"))
        if number == 0:
            return
        keeper = trainer.checkpoint_callback
        if isinstance(keeper, Checkpoint):
            keeper.save_now(trainer)
        self.signals.stop(number)
