"""Things that take their time and say where they are: a file for each place, in a folder."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from llmexp.config import spec
from llmexp.models import HFModel

PLACES = "SLOW_PLACES"
"""Names the folder."""


STAYS = 300.0


def here(place: str, seconds: float = STAYS) -> None:
    """Say it once, and stay until somebody says go, or for so long."""
    mark = Path(os.environ[PLACES]) / place
    if mark.exists():
        return
    mark.touch()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not mark.with_suffix(".go").exists():
        time.sleep(0.02)


def rows() -> Iterator[dict[str, Any]]:
    """Thirty rows; the tenth takes its time."""
    for i in range(30):
        if i == 10:
            here("rows")
        yield {"text": f"row number {i}", "label": "ab"[i % 2]}


@spec
class SlowModel(HFModel):
    """Its first forward pass takes its time."""

    def load(self, auto_class: Any, config: Any, **more: Any) -> Any:
        net = super().load(auto_class, config, **more)
        net.register_forward_pre_hook(lambda *_: here("forward"))
        return net


class Dawdle(pl.Callback):
    """Takes its time at one place, once; `deaf`: inside a library, where no handler runs."""

    def __init__(self, place: str, deaf: bool = False):
        self.place, self.deaf = place, deaf

    def _at(self, place: str) -> None:
        if place != self.place:
            return
        here(place, 0.0 if self.deaf else STAYS)
        if self.deaf:
            hashlib.pbkdf2_hmac("sha256", b"", b"", int(STAYS * 2e6))

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step:
            self._at("training")

    def on_validation_batch_start(self, *_: Any) -> None:
        self._at("validation")

    def on_save_checkpoint(self, *_: Any) -> None:
        self._at("saving")

    def on_test_batch_start(self, *_: Any) -> None:
        self._at("test")
