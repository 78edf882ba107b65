"""Validation and test, the same for every strategy that has a loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from llmexp.modules.gathered import from_all
from llmexp.modules.memory import Parts, halved
from llmexp.tasks.base import IGNORE, Batch, Loss, Row

if TYPE_CHECKING:
    from llmexp.context import Context


class Evaluation(pl.LightningModule):
    """Scores every example once, over all ranks, and keeps the test's answers.

    A subclass gives `loss(batch)`; it may override `answer(batch, loss)`.
    """

    net: Any
    validation_scores: Any
    test_scores: Any

    def __init__(self, context: Context):
        super().__init__()
        self.context = context
        self.task = context.task
        self.labels = context.examples.labels
        self.validation_scores = self.task.scores(self.labels)
        self.test_scores = self.task.scores(self.labels)
        self.evaluated = Parts()
        """In how many parts memory has room for a batch that is not trained on."""
        self.answers: list[Row] = []
        self.losses: list[Row] = []
        """What each test row of a language model adds to the loss, where that can be told."""
        self.test_metrics: dict[str, float] = {}
        self.validation_metrics: dict[str, float] = {}
        """Of the weights that are tested: the best checkpoint's, after `restore_best`."""
        self.validated_at = -1
        """The optimizer step of the last validation."""

    def configure_model(self) -> None:
        """Shard the network where Lightning's strategy is one that shards."""
        strategy = self.trainer.strategy
        if hasattr(strategy, "shard"):
            strategy.shard(self.net)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """As Lightning's, which looks for tensors at any depth: a batch is flat."""
        free = device.type == "cuda"
        return {
            name: value.to(device, non_blocking=free) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }

    def loss(self, batch: Batch) -> Loss:
        raise NotImplementedError

    def answer(self, batch: Batch, loss: Loss) -> list[Row]:
        """One answer for each row of a test batch that is no filler."""
        rows = [self.context.examples.test[i] for i in batch["index"].tolist() if i >= 0]
        if not rows:
            return []
        return self.task.answers(self.net, rows, loss, self.context.tokenizer, self.labels)

    def written(self) -> list[Row]:
        """This process's share of the answers that are generated."""
        test = self.context.examples.test
        asked = range(min(self.task.samples(), len(test), self._tested()))
        mine = asked[self.global_rank :: self.trainer.world_size]
        # Sharded weights are gathered in step: then every process has to write every answer.
        together = asked if hasattr(self.net, "unshard") else mine
        if not together:
            return []
        if hasattr(self.net, "unshard"):
            self.net.unshard()
        rows = [test[i] for i in together]
        found = self._written(rows)
        pairs = zip(together, found, strict=True)
        return [{"index": i, **answer} for i, answer in pairs if i in mine]

    def _tested(self) -> int:
        """Of no more rows are answers written than a test reads that was cut short."""
        limit = self.trainer.limit_test_batches
        rows = self.task.batch_size * self.trainer.world_size
        return limit * rows if isinstance(limit, int) else len(self.context.examples.test)

    def _written(self, rows: list[Row]) -> list[Row]:
        def answers(some: list[Row]) -> list[Row]:
            with self.writing():
                return self.task.written(self.net, some, self.context.tokenizer)

        return answers(rows) if hasattr(self.net, "unshard") else halved(answers, rows)

    def writing(self) -> AbstractContextManager[None]:
        """In which the network writes answers."""
        return nullcontext()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        for _, loss in self._losses(batch):
            self.validation_scores.update(loss)

    def on_validation_epoch_end(self) -> None:
        scores = {f"val/{name}": v for name, v in self.validation_scores.compute().items()}
        self.log_dict(scores, rank_zero_only=False)
        self.validation_metrics = scores
        self.validated_at = self.global_step
        self.validation_scores.reset()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        for part, loss in self._losses(batch):
            self.test_scores.update(loss)
            indices = [i for i in part["index"].tolist() if i >= 0]
            found = self.answer(part, loss)
            self.answers += [{"index": i, **a} for i, a in zip(indices, found, strict=False)]
            self.losses += row_losses(part, loss)

    def _losses(self, batch: Batch) -> Iterator[tuple[Batch, Loss]]:
        """(part, its loss), in as many parts as memory asks for."""
        if hasattr(self.net, "unshard"):
            # Forward passes of shards are in step: no process can make more of them alone.
            return iter([(batch, self.loss(batch))])
        return self.evaluated.each(self.loss, batch)

    def on_test_epoch_end(self) -> None:
        self.answers += self.written()
        self.answers = _of_all(self.answers)
        self.losses = _of_all(self.losses)
        scores = self.test_scores.compute() | self.task.answer_scores(self.answers)
        self.test_metrics = {f"test/{name}": v for name, v in scores.items()}
        self.log_dict(self.test_metrics, rank_zero_only=False)


def _of_all(mine: list[Row]) -> list[Row]:
    """The rows of every process, in the order of the data."""
    return sorted((row for part in from_all(mine) for row in part), key=lambda a: a["index"])


def row_losses(batch: Batch, loss: Loss) -> list[Row]:
    """A line of `losses.jsonl` for each row that is no filler: its loss, tokens, right ones."""
    sums = loss.rows() if loss.rows is not None else None
    if sums is None:
        return []
    columns = {"nats": sums[:, 0], "tokens": (batch["labels"] != IGNORE).sum(1)}
    columns["right"] = sums[:, 1].round().long()
    if "text_bytes" in batch:
        columns["bytes"] = batch["text_bytes"]
    lists = {name: values.tolist() for name, values in columns.items()}
    return [
        {"index": i, **{name: values[n] for name, values in lists.items()}}
        for n, i in enumerate(batch["index"].tolist())
        if i >= 0
    ]
