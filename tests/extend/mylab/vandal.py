"""Ends the processes that W&B started for a run, as the kernel does where memory is short."""

import os
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class Vandal(pl.Callback):
    """Kills them after some steps."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            found = [process for process in children() if named(process).startswith("wandb")]
            assert found
            for process in found:
                os.kill(process, signal.SIGKILL)


def children() -> list[int]:
    lists = Path("/proc/self/task").glob("*/children")
    return [int(number) for path in lists for number in path.read_text().split()]


def named(process: int) -> str:
    return Path(f"/proc/{process}/comm").read_text()
