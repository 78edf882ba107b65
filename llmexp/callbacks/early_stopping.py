from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning import callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Stops once `monitor` has not improved for `patience` validations; null never stops."""

    def __init__(
        self,
        monitor: str = "val/loss",
        patience: int | None = None,
        mode: Literal["min", "max"] = "min",
        min_delta: float = 0.0,
    ):
        super().__init__(
            monitor,
            min_delta,
            patience=1 if patience is None else patience,
            mode=mode,
            check_on_train_epoch_end=False,
        )
        self.active = patience is not None

    @staticmethod
    def unread(node: dict[str, Any]) -> dict[str, str]:
        """Arguments that change nothing beside the others of a node, and why."""
        if node.get("patience") is not None:
            return {}
        why = "callbacks.early_stopping.patience=null never stops early"
        return dict.fromkeys(("monitor", "mode", "min_delta"), why)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.active:
            super().on_validation_end(trainer, pl_module)
