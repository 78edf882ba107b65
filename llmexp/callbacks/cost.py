from __future__ import annotations

import resource
import sys
import time
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

if TYPE_CHECKING:
    from llmexp.record import Record


class Cost(pl.Callback):
    """Measures what training costs: seconds, real tokens, peak memory."""

    def __init__(self, record: Record):
        self.record = record
        self.began = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.began = time.perf_counter()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.record.cost["fit_seconds"] += round(time.perf_counter() - self.began, 3)
        tokens = torch.tensor(pl_module.tokens_trained, device=pl_module.device)
        self.record.cost["tokens_trained"] = int(trainer.strategy.reduce(tokens, reduce_op="sum"))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record.cost["peak_memory_mb"] = round(peak_memory_mb(), 1)


def peak_memory_mb() -> float:
    """GPU memory on a GPU, resident memory on a CPU, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
