from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl


class MetricsFile(pl.Callback):
    """`metrics.jsonl`: what was logged, one line an event, whatever becomes of the tracker."""

    def __init__(self, folder: Path, fresh: bool):
        self.path = folder / "metrics.jsonl"
        self.fresh = fresh
        """Nothing is resumed: what a run that died before its first checkpoint wrote is cut off."""
        self.file: TextIO | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero and self.file is None:
            self.file = self.path.open("a", encoding="utf-8")
            if self.fresh:
                self.file.truncate(0)
            self.fresh = False

    def state_dict(self) -> dict[str, Any]:
        """How long the history is at this checkpoint, and on the disk before it."""
        if self.file is None:
            return {"bytes": 0}
        os.fsync(self.file.fileno())
        return {"bytes": self.file.tell()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Cut off what was written after the checkpoint: it will be written again."""
        if self.file is not None:
            self.file.truncate(min(state_dict["bytes"], self.path.stat().st_size))
            self.file.seek(0, os.SEEK_END)

    def _write(self, trainer: pl.Trainer, keep: str, epoch: int) -> None:
        if self.file is None:
            return
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(keep)}
        line = {"step": trainer.global_step, "epoch": epoch, "time": time.time()}
        self.file.write(json.dumps(line | values) + "\n")
        self.file.flush()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every == 0 and not trainer.fit_loop._should_accumulate():
            self._write(trainer, "train/", trainer.current_epoch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, "val/", trainer.current_epoch)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Epochs begun: those completed differ where a run ended within one and is resumed there.
        self._write(trainer, "test/", trainer.fit_loop.epoch_progress.current.ready)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
