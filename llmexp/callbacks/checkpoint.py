from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """`checkpoints/best.ckpt` by `monitor`, and `checkpoints/last.ckpt` to resume from.

    Both are written after every validation; `every_n_train_steps` writes `last.ckpt` in between.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        save_last: bool = True,
        every_n_train_steps: int | None = None,
    ):
        super().__init__(
            monitor=monitor,
            mode=mode,
            save_last=save_last,
            save_top_k=1,
            filename="best",
            enable_version_counter=False,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )
        # Lightning's own would judge what it saves between validations by the last val/loss.
        self.every_n_steps = every_n_train_steps
        self.saved_at = 0
        self.saving_seconds = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        # Lightning 2.6 writes the last one only where it is also the best.
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self.save_now(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self.saved_at:
            self.save_now(trainer)

    def save_now(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt` at this step."""
        self.saved_at = trainer.global_step
        assert self.dirpath is not None
        self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
        self._save_checkpoint(trainer, self.last_model_path)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        began = time.perf_counter()
        super()._save_checkpoint(trainer, filepath)
        self.saving_seconds += time.perf_counter() - began
