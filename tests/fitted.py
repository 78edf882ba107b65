"""A strategy carried through Lightning on a few rows, without Hydra and without a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from llmexp.config import Cache
from llmexp.context import Context
from llmexp.strategies.base import Strategy
from llmexp.strategies.feature_based import FeatureBased
from llmexp.tasks.base import IGNORE, Examples, Task
from llmexp.tasks.classification import Classification
from tests import nets, tiny

FEATURES = {"pooling": None, "classifier": "linear", "hidden": 16, "dropout": 0.0, "batch_size": 8}
WORDS = ["river", "bear", "question", "list", "python", "fox", "story", "items"]


class Fitted(NamedTuple):
    module: Any
    data: Any
    losses: list[float]
    """Of every training batch: the mean over its supervised positions."""


def features(**changes: Any) -> FeatureBased:
    return FeatureBased(**{**FEATURES, **changes})


def texts(count: int = 24) -> tuple[Task, Examples]:
    """Texts of many lengths whose class is a word in them; two of them are equal."""
    rows = [
        {"text": f"{WORDS[i % 8]} " * (1 + i % 5) + tiny.TEXTS[i % 3], "label": nets.LABELS[i % 3]}
        for i in range(count)
    ]
    rows[1] = dict(rows[0])
    task = Classification(train="made.jsonl", batch_size=5)
    return task, Examples(train=rows, validation=rows[:7], test=rows[3:], labels=nets.LABELS)


def context(
    folder: Path,
    strategy: Strategy,
    posed: tuple[Task, Examples] | None = None,
    *,
    cache: bool = True,
    max_gb: float = 1.0,
    **model: Any,
) -> Context:
    """As `nets.context`, with a cache beside the checkpoint."""
    made = nets.context(folder, strategy, posed or texts(), **model)
    where = Cache(enabled=cache, dir=str(folder.parent / "cache"), max_gb=max_gb)
    return replace(made, cache=where)


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        count = int((batch["labels"] != IGNORE).sum())
        self.found.append(float(outputs["loss"].detach()) / count if outputs else 0.0)


def fit(made: Context, epochs: int = 2, net: Any = None) -> Fitted:
    """Train and test; the same weights, rows and order each time."""
    pl.seed_everything(0, verbose=False)
    net = nets.adapted(made) if net is None else net
    data = made.strategy.data(made, net)
    module = made.strategy.module(net, made)
    losses = Losses()
    trainer = pl.Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[losses],
        default_root_dir=str(made.folder),
    )
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return Fitted(module, data, losses.found)


def close(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), atol=tolerance, rtol=0.0)
