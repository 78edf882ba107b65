from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch

from llmexp.callbacks.cost import memory_mb


class Curves(pl.Callback):
    """What a training does, every `trainer.log_every_n_steps` steps.

    Straight into the trainer's metrics and to its loggers: `Module.log` takes 0.2 ms a key.
    """

    def __init__(self) -> None:
        self.since = 0.0
        self.tokens = 0
        self.rate: float | None = None
        """Of the last update; none before the first of this process."""

    def _restart(self, pl_module: Any) -> None:
        self.since, self.tokens = time.perf_counter(), pl_module.tokens_trained

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._update(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._update(trainer, pl_module)

    def _update(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        """The last update's loss and gradient norm, which other callbacks may monitor."""
        steps = hasattr(pl_module, "update_loss")  # scikit-learn's take none
        if trainer.state.fn != "fit" or self.rate is None or not steps:
            return {}
        values = {"train/loss": pl_module.update_loss, "train/gradient_norm": pl_module.update_norm}
        trainer.callback_metrics.update(values)
        return values

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A rate that held the validation's time would dip after each.
        if trainer.state.fn == "fit":
            self._restart(pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # After the step it is already the next one's.
        self.rate = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - self.since
            tokens = (pl_module.tokens_trained - self.tokens) * trainer.world_size
            known = {
                "train/learning_rate": self.rate,
                "train/tokens_per_second": tokens / seconds,
                "train/memory_mb": memory_mb(),
            }
            values = self._update(trainer, pl_module)
            values |= {key: torch.tensor(value) for key, value in known.items()}
            trainer.callback_metrics.update(values)
            trainer._logger_connector.log_metrics(values)
            self._restart(pl_module)
