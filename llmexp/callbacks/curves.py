from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch

from llmexp.callbacks.cost import memory_mb


class Curves(pl.Callback):
    """Learning rate, tokens per second and memory, every `trainer.log_every_n_steps` steps.

    Everything here is known to the host; nothing waits for the device.
    """

    def __init__(self) -> None:
        self.since = 0.0
        self.tokens = 0
        self.rate = 0.0

    def _restart(self, pl_module: Any) -> None:
        self.since, self.tokens = time.perf_counter(), pl_module.tokens_trained

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart(pl_module)

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
            values = {
                "train/learning_rate": self.rate,
                "train/tokens_per_second": tokens / seconds,
                "train/memory_mb": memory_mb(),
            }
            pl_module.log_dict(values)
            self._restart(pl_module)
