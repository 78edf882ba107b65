"""Every epoch has its own order, as Lightning really drives the loaders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from llmexp.data.batches import update_order
from llmexp.strategies.full_finetune import FullFinetune
from tests import fitted, nets, tiny


class Order(pl.Callback):
    def __init__(self) -> None:
        self.epochs: list[list[list[int]]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.epochs.append([])

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.epochs[-1].append(sorted(batch["index"].tolist()))


@pytest.mark.parametrize("budget", [None, 160], ids=["rows", "tokens"])
def test_each_epoch_shuffles_anew_and_sees_every_row(tmp_path: Path, budget: int | None) -> None:
    task, examples = fitted.texts(60)
    posed = (replace(task, tokens_per_batch=budget), examples)
    made = fitted.context(tiny.bert(tmp_path / "bert"), FullFinetune(), posed)
    net = nets.adapted(made)
    data, order = made.strategy.data(made, net), Order()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[order],
        default_root_dir=str(tmp_path),
    )
    trainer.fit(made.strategy.module(net, made), datamodule=data)
    for epoch in order.epochs:
        assert sorted(i for batch in epoch for i in batch if i >= 0) == list(range(60))
    first, second, third = order.epochs
    assert first != second and second != third and first != third
    if budget is None:
        expected = update_order(data.lengths("train"), task.batch_size, made.seed, 2)
        assert third == [sorted(update) for update in expected]
