from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytorch_lightning as pl
import torch

if TYPE_CHECKING:
    from llmexp.jobs.record import Record


class Cost(pl.Callback):
    """What training costs: seconds, real tokens over all processes, peak memory.

    `fit_seconds` is the training loop with its validations, without start-up, saving and testing.
    `first_step_seconds` is from the start of this process to the end of its first optimizer step.
    A checkpoint carries what its run has cost, so that a resumed one goes on counting.
    `peak_memory_mb` is the largest of any GPU; on a CPU the processes share one machine's memory,
    so their peaks add up.
    """

    def __init__(self, record: Record):
        self.record = record
        self.began: float | None = None
        self.waits = True
        """No optimizer step has ended yet."""
        self.trainer: pl.Trainer | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"fit_seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What the run cost before it was interrupted belongs to it."""
        self.record.cost["fit_seconds"] = state_dict["fit_seconds"]

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        lives = self.record.lives
        prefix = getattr(getattr(trainer, "datamodule", None), "prefix", None)
        spared = lives.spared_seconds
        if spared is None and prefix is not None:
            spared = prefix.spared
        checkpoint["cost"] = {
            "total_seconds": lives.seconds(),
            "spared_seconds": spared,
            "peak_memory_mb": max(lives.peak_memory_mb, peak_of_all(trainer)),
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        tokens = [process["tokens"] for process in checkpoint["resume"]["processes"]]
        self.record.cost["tokens_trained"] = sum(tokens)
        lives, cost = self.record.lives, checkpoint["cost"]
        lives.kept, lives.spared_seconds = cost["total_seconds"], cost["spared_seconds"]
        lives.peak_memory_mb = cost["peak_memory_mb"]

    def _seconds(self) -> float:
        """Of training so far."""
        before: float = self.record.cost["fit_seconds"]
        if self.began is None or self.trainer is None:
            return before
        now = time.perf_counter() - self.began - saving_seconds(self.trainer)
        return round(before + now, 3)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.began = time.perf_counter() - saving_seconds(trainer)
        self.trainer = trainer

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.waits and not trainer.fit_loop._should_accumulate():
            self.waits = False
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.record.cost["first_step_seconds"] = round(process_seconds(), 3)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        tokens = torch.tensor(pl_module.tokens_trained, device=pl_module.device)
        self._note(trainer, int(trainer.strategy.reduce(tokens, reduce_op="sum")))

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        # The others may be gone: count what this process knows.
        self._note(trainer, getattr(pl_module, "tokens_trained", 0) * trainer.world_size)

    def _note(self, trainer: pl.Trainer, tokens: int) -> None:
        if self.began is None:
            return
        self.record.cost["fit_seconds"] = self._seconds()
        self.record.cost["tokens_trained"] = tokens
        self.began = None

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        peak = max(self.record.lives.peak_memory_mb, peak_of_all(trainer))
        self.record.cost["peak_memory_mb"] = round(peak, 1)


def process_seconds() -> float:
    """Since this process was started: a program that it was before `exec` counts too."""
    return time.time() - psutil.Process().create_time()


def saving_seconds(trainer: pl.Trainer) -> float:
    """What the checkpoints took so far."""
    return sum(getattr(keeper, "saving_seconds", 0.0) for keeper in trainer.checkpoint_callbacks)


def peak_of_all(trainer: pl.Trainer) -> float:
    """Of the largest GPU, or of all processes on a CPU; every process has to ask."""
    peak = torch.tensor(peak_memory_mb(), device=trainer.strategy.root_device)
    how = "max" if torch.cuda.is_available() else "sum"
    return float(trainer.strategy.reduce(peak, reduce_op=how))


def peak_memory_mb() -> float:
    """GPU memory on a GPU, resident memory on a CPU, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    # A process takes over the peak of the one that started it as what getrusage tells of it (it
    # outlives exec): a run started by something large would report that. The kernel's own mark of
    # the memory that this program has mapped does not; a kernel that is not Linux's may lack it.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def memory_mb() -> float:
    """What is held now: on a GPU what is allocated, on a CPU the peak so far, in MiB."""
    return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else peak_memory_mb()
