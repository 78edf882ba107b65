from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """`checkpoints/best.ckpt` by `monitor`, and `checkpoints/last.ckpt` to resume from."""

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
            every_n_train_steps=every_n_train_steps,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)
