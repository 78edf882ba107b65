"""A callback that leaves no byte free on the disk of a folder, at a given moment."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class Filler(pl.Callback):
    """Fills it when `hook` is called for the `at`-th time, unless it did before."""

    def __init__(self, hook: str, at: int, folder: str):
        self.hook, self.left, self.other = hook, at, Path(folder) / "other"
        self.done = self.other.with_name("filled")

    def _at(self, hook: str) -> None:
        self.left -= hook == self.hook
        if self.left or self.done.exists():
            return
        self.done.touch()
        with self.other.open("wb", buffering=0) as other, contextlib.suppress(OSError):
            while True:
                other.write(bytes(4096))

    def on_train_batch_end(self, *_: Any) -> None:
        self._at("batch_end")

    def on_test_batch_end(self, *_: Any) -> None:
        self._at("test")
