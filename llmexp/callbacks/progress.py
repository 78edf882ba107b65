"""Progress for people: a bar in a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN = ("val/loss", "val/accuracy", "val/perplexity")


def progress() -> pl.Callback:
    return ProgressBar() if sys.stdout.isatty() else ProgressLines()


class ProgressLines(pl.Callback):
    """A line at most every `seconds` and after every validation: logs stay readable."""

    def __init__(self, seconds: float = 15.0):
        self.seconds = seconds
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        print(text, flush=True)

    def show(self, trainer: pl.Trainer, loss: float) -> None:
        total = trainer.estimated_stepping_batches
        self.say(f"step {trainer.global_step}/{total}  train/loss {loss:.4f}")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.is_global_zero and time.monotonic() - self.last > self.seconds:
            self.last = time.monotonic()
            self.show(trainer, float(pl_module.update_loss))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.sanity_checking:
            values = trainer.callback_metrics
            text = "  ".join(f"{k} {float(values[k]):.4f}" for k in SHOWN if k in values)
            self.say(f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}  {text}")


class ProgressBar(ProgressLines):
    """One live line at the bottom; what is said scrolls above it."""

    def __init__(self) -> None:
        # The loss is asked for twice a second: each time the host waits for the device.
        super().__init__(seconds=0.5)
        self.bar: Progress | None = None

    def say(self, text: str) -> None:
        (self.bar.console if self.bar is not None else Console()).print(text, highlight=False)

    def show(self, trainer: pl.Trainer, loss: float) -> None:
        self._move(trainer.global_step, f"train/loss {loss:.4f}")

    def _begin(self, trainer: pl.Trainer, name: str, total: float, done: int = 0) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        if self.bar is None:
            columns = (
                TextColumn("{task.description:<8}"),
                BarColumn(24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.bar = Progress(*columns, transient=True)
            self.bar.start()
        self.bar.add_task(name, total=total if total < 1e12 else None, completed=done, note="")

    def _move(self, done: int, note: str = "") -> None:
        if self.bar is not None and self.bar.task_ids:
            self.bar.update(self.bar.task_ids[-1], completed=done, note=note)

    def _end(self) -> None:
        """Remove the innermost task, and the display with the last one."""
        if self.bar is not None and self.bar.task_ids:
            self.bar.remove_task(self.bar.task_ids[-1])
        if self.bar is not None and not self.bar.task_ids:
            self.bar.stop()
            self.bar = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, "train", trainer.estimated_stepping_batches, trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, "validate", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._move(args[3] + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()
        super().on_validation_end(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, "test", sum(trainer.num_test_batches))

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._move(args[3] + 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        while self.bar is not None:
            self._end()
