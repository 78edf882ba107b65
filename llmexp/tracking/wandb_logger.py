"""Lightning's W&B logger, without which a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import WandbLogger

from llmexp.tracking.wandb import told

if TYPE_CHECKING:
    import wandb


class Tolerant(WandbLogger):
    """Tells W&B what is logged; after an error of W&B, which is one line, nothing more."""

    def __init__(self, run: wandb.Run, folder: Path):
        super().__init__(experiment=run, save_dir=folder)
        self.lost = False

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._tell(lambda: super(Tolerant, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        self._tell(lambda: super(Tolerant, self).log_hyperparams(params))

    def log_table(self, *args: Any, **more: Any) -> None:
        self._tell(lambda: super(Tolerant, self).log_table(*args, **more))

    def _tell(self, say: Callable[[], None]) -> None:
        if self.lost:
            return
        lost = True
        with told():
            say()
            lost = False
        # A table is logged as a metric: what it says may have failed within.
        self.lost |= lost
