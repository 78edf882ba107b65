from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

from llmexp.callbacks.checkpoint import Checkpoint
from llmexp.jobs.signals import Signals


class Stop(pl.Callback):
    """SIGTERM or Ctrl-C in training: every process finishes the step, `last.ckpt` is saved.

    In a validation it is finished first: its scores are in no checkpoint, so that half of one is
    worth nothing.
    """

    def __init__(self, signals: Signals):
        self.signals = signals

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.signals.others = list(getattr(trainer.strategy.launcher, "procs", []))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.patient = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        keeper = trainer.checkpoint_callback
        if not isinstance(keeper, Checkpoint):
            self._stop_if_asked(trainer)
        elif keeper.may_save(trainer) and (number := self._asked(trainer)):
            keeper.save_now(trainer)
            self.signals.stop(number)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.signals.patient:
            return
        keeper = trainer.checkpoint_callback
        if not isinstance(keeper, Checkpoint):
            self._stop_if_asked(trainer)
        # Lightning calls a checkpoint's hooks last: it has not seen this validation yet.
        elif (number := self._asked(trainer)) and keeper.after_validation(trainer):
            self.signals.stop(number)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last step may have been asked to be the last."""
        self.signals.patient = False
        if number := self._asked(trainer):
            # They come after this callback.
            for keeper in trainer.checkpoint_callbacks:
                keeper.on_train_end(trainer, pl_module)
            self.signals.stop(number)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        """Nothing is kept, so there is nothing to wait for."""
        if number := self._asked(trainer):
            self.signals.stop(number)

    def _asked(self, trainer: pl.Trainer) -> int:
        """The signal that came, or 0: all processes stop at the same step, whichever was asked."""
        number = self.signals.asked
        if trainer.world_size > 1:
            said = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(said, reduce_op="max"))
        return number


class NoHandlers(_SignalConnector):
    """Lightning's place for signals, empty.

    Its own handlers save nothing on Ctrl-C, exit 0 on SIGTERM, start a collective from inside a
    handler, and requeue a SLURM job that then begins anew.
    """

    def register_signal_handlers(self) -> None:
        """The run's own handlers stay."""
