from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from llmexp.checkpoints.generations import Generations
from llmexp.errors import UserError
from llmexp.modules.gathered import from_all


class Resume(pl.Callback):
    """Carries through a checkpoint what Lightning leaves out of it.

    The random numbers of every process (torch, CUDA, numpy, Python), what each of them trained,
    what was noted so far, and whether training was to stop. Random numbers are put back where the
    next ones are drawn: before the first batch, or before the validation that comes first.
    """

    def __init__(self) -> None:
        self.ended = False
        """Training is over, only the test is left."""
        self.waiting: dict[str, Any] | None = None
        """Random numbers to put back."""
        self.stop = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        mine = {
            # What waits to be put back is what this place in the run would draw from.
            "random": self.waiting or drawn(),
            "tokens": pl_module.tokens_trained,
            "read": data.counted(),
        }
        checkpoint["resume"] = {
            "processes": from_all(mine),
            "notes": list(pl_module.context.examples.notes),
            "stop": bool(trainer.should_stop),
            "ended": self.ended,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        saved = checkpoint["resume"]
        mine = saved["processes"][trainer.global_rank]
        self.waiting = mine["random"]
        pl_module.tokens_trained = mine["tokens"]
        trainer.datamodule.recount(mine["read"])  # type: ignore[attr-defined]
        self.stop, self.ended = saved["stop"], saved["ended"]
        notes = pl_module.context.examples.notes
        # In place: the run's record holds this list.
        notes[:] = [*saved["notes"], *(said for said in notes if said not in saved["notes"])]
        steps = from_all(checkpoint["global_step"])
        if len(set(steps)) > 1:
            raise UserError(f"the processes read checkpoints of other steps: {steps}; resume again")
        if trainer.is_global_zero:
            # Now that every process has read the one it found.
            Generations(Path(trainer.default_root_dir) / "checkpoints").set_aside()
        # Lightning would train on: that it was to stop is not in its checkpoint.
        trainer.should_stop = self.stop and self.ended

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # From here the loops end as they did: the epoch that was stopped counts as one.
        trainer.should_stop = trainer.should_stop or self.stop
        fit = trainer.fit_loop
        if self.waiting is not None and fit.restarting:
            # The schedule asked for the loader before the checkpoint was read, and Lightning gives
            # a loader its place only when it makes it.
            fit._load_combined_loader_states()
            iter(fit._data_fetcher)  # type: ignore[arg-type]

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._put_back()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._put_back()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ended = True
        self._put_back()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._put_back()

    def _put_back(self) -> None:
        if self.waiting is not None:
            put_back(self.waiting)
            self.waiting = None


def drawn() -> dict[str, Any]:
    """The state of all random numbers of this process, as `torch.load(weights_only=True)` reads."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def put_back(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
