"""The LightningDataModule of token rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from llmexp.data.batches import EpochBatches, EvaluationBatches, TokenRows, UpdateBatches
from llmexp.data.loader import Place, ResumableLoader, place_in
from llmexp.data.token_budget import BudgetEvaluationBatches, BudgetUpdateBatches
from llmexp.data.token_cache import encoded
from llmexp.errors import UserError
from llmexp.tasks.base import Batch, Encoded, Row

if TYPE_CHECKING:
    from llmexp.context import Context


class TokenData(pl.LightningDataModule):
    """Encoded splits of one experiment, batched for this rank."""

    held: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    """The splits whose token rows are all in memory, or in one file."""

    def __init__(self, context: Context, accumulate: int = 1):
        super().__init__()
        self.context = context
        self.accumulate = accumulate
        self.encoded: dict[str, Encoded] = {}

    def setup(self, stage: str) -> None:
        """Tokenise every split, once, or find it tokenised."""
        if self.encoded:
            return
        for name in self.held:
            rows = getattr(self.context.examples, name)
            self.encoded[name] = encoded(self.context, rows, name)
            if not self.encoded[name].rows:
                raise UserError(
                    f"data.{name}: no row is left after tokenising ({self.encoded[name].counts})"
                )
            self.context.examples.encoding[name] = self.encoded[name].facts()

    def _loader(self, name: str, sampler: Sampler[list[int]]) -> DataLoader:
        workers = self.context.task.num_workers
        return self.loader(
            TokenRows(self.encoded[name].rows),
            sampler,
            batch_sampler=sampler,
            collate_fn=self.collate(name),
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def loader(self, rows: Any, order: Sampler[list[int]], **settings: Any) -> DataLoader:
        """One that resumes where training ended, if the order has epochs."""
        # What a GPU is sent from pinned memory it takes while it computes.
        gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        settings["pin_memory"] = gpu
        if isinstance(order, EpochBatches):
            return ResumableLoader(rows, source=order, place=self.place, **settings)
        # With the run's own generator, each validation would move the dropout of training.
        return DataLoader(rows, generator=torch.Generator().manual_seed(0), **settings)

    def counted(self) -> dict[str, Any]:
        """What this process counts of the batches it trains on, for a checkpoint."""
        return {}

    def recount(self, counted: dict[str, Any]) -> None:
        """Go on counting where an interrupted run ended."""

    def place(self) -> Place | None:
        """Where training is."""
        return place_in(self.trainer)

    def collate(self, name: str) -> Callable[[list[Row]], Batch]:
        """What makes a batch of rows of this split."""
        return partial(self.context.task.collate, pad_id=self.context.pad_id)

    def lengths(self, name: str) -> list[int]:
        return self.encoded[name].lengths()

    def train_dataloader(self) -> DataLoader:
        task, lengths = self.context.task, self.lengths("train")
        more = (self.accumulate, self.context.seed, *self._rank())
        budget = task.tokens_per_batch
        if budget is not None:
            return self._loader("train", BudgetUpdateBatches(lengths, budget, *more))
        return self._loader("train", UpdateBatches(lengths, task.batch_size, *more))

    def val_dataloader(self) -> DataLoader:
        return self._evaluation("validation")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation("test")

    def _evaluation(self, name: str) -> DataLoader:
        task, lengths, rank = self.context.task, self.lengths(name), self._rank()
        budget = task.tokens_per_batch
        if budget is not None:
            return self._loader(name, BudgetEvaluationBatches(lengths, budget, *rank))
        return self._loader(name, EvaluationBatches(lengths, task.batch_size, *rank))

    def _rank(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
