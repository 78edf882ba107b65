"""Limits of the kernel that a run really hits."""

import os
import resource
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch


class Limit(pl.Callback):
    """In its first training step the process runs out of memory, or of time, or of nothing."""

    def __init__(self, of: str):
        self.of = of

    def on_train_batch_start(self, *_: Any) -> None:
        if self.of == "memory":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            room = pages * resource.getpagesize() + 2**28
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
            self.held = torch.ones(2**30)
        while self.of == "time":
            # At the hard limit the kernel sends SIGKILL.
            used = int(sum(os.times()[:2])) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (used, used))
            while True:
                torch.ones(1000).sum()


class Pace(pl.Callback):
    """Takes so many seconds for each validation."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_validation_end(self, *_: Any) -> None:
        time.sleep(self.seconds)
