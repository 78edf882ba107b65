from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

# Saving may take this part of the time at most: where it takes long, it is done less often.
SHARE = 0.05
# Updates between two looks at the clock where several processes have to agree on the time.
ASK_EVERY = 20


class Checkpoint(ModelCheckpoint):
    """`checkpoints/best.ckpt` by `monitor`, and `checkpoints/last.ckpt` to resume from.

    Both are written after every validation; `last.ckpt` in between too, every `every_minutes` or
    `every_n_train_steps`. It is written only where an update is whole and no validation is due, so
    that the run can go on from it exactly.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        save_last: bool = True,
        every_n_train_steps: int | None = None,
        every_minutes: float | None = 5.0,
    ):
        super().__init__(
            monitor=monitor,
            mode=mode,
            save_last=save_last,
            save_top_k=1,
            filename="best",
            enable_version_counter=False,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )
        # Lightning's own would judge what it saves between validations by the last val/loss.
        self.every_n_steps = every_n_train_steps
        self.every_minutes = every_minutes
        self.saved_at = self.judged_at = self.best_at = -1
        self.owed = False
        """A checkpoint that came due where none can be taken."""
        self.clock = time.monotonic()
        self.saving_seconds = 0.0
        self.last_seconds = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def state_dict(self) -> dict[str, Any]:
        """Without paths: the folder may be moved before the run goes on."""
        return {"score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score = state_dict["score"]
        if score is None:
            return
        path = self.format_checkpoint_name({})
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = path
        self.best_k_models = {path: score}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        self.saved_at = checkpoint["global_step"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step == self.saved_at or trainer.fit_loop._should_accumulate():
            return
        self.owed = self.owed or self._due(trainer)
        if self.owed and self.may_save(trainer):
            self.save_now(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.after_validation(trainer)

    def after_validation(self, trainer: pl.Trainer) -> bool:
        """Judge these weights and write both checkpoints, once; whether the run can go on here."""
        whole = not trainer.fit_loop._should_accumulate()
        if self.judged_at != trainer.global_step:
            self.judged_at = trainer.global_step
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            if self.save_last and whole:
                self.save_now(trainer)
        return whole

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's loops do not resume exactly from here."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.save_last and self.saved_at != trainer.global_step:
            self.save_now(trainer)

    def may_save(self, trainer: pl.Trainer) -> bool:
        """Whether the run could go on exactly from the end of this batch.

        Not within an update; nor where a validation is due, or the epoch or training is over:
        Lightning would skip what comes next.
        """
        loop = trainer.fit_loop.epoch_loop
        fetcher: Any = trainer.fit_loop._data_fetcher
        after = loop._is_training_done or loop._should_check_val_fx(fetcher)
        return not after and not loop._should_accumulate()

    def save_now(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt` at this step."""
        self.saved_at, self.owed = trainer.global_step, False
        assert self.dirpath is not None
        self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
        self._save_checkpoint(trainer, self.last_model_path)
        self.clock = time.monotonic()

    def _due(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0:
            return True
        if self.every_minutes is None or (trainer.world_size > 1 and step % ASK_EVERY):
            return False
        wait = max(self.every_minutes * 60, self.last_seconds / SHARE)
        return trainer.strategy.reduce_boolean_decision(
            time.monotonic() - self.clock > wait, all=False
        )

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        began = time.perf_counter()
        super()._save_checkpoint(trainer, filepath)
        if filepath != self.last_model_path:
            self.best_at = trainer.global_step
        self.last_seconds = time.perf_counter() - began
        self.saving_seconds += self.last_seconds
