"""From every checkpoint that training writes, Lightning's loops go on to the same bits."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from llmexp.callbacks.checkpoint import Checkpoint
from llmexp.callbacks.early_stopping import EarlyStopping
from llmexp.callbacks.last_validation import LastValidation
from llmexp.callbacks.metrics_file import MetricsFile
from llmexp.callbacks.resume import Resume
from llmexp.checkpoints.durable import DurableCheckpoints
from llmexp.strategies.full_finetune import FullFinetune
from tests import fitted, nets, tiny


class Kept(Checkpoint):
    """Keeps a copy of every checkpoint to resume from, and of the history beside it."""

    copies: Path | None = None

    def save_now(self, trainer: pl.Trainer) -> None:
        super().save_now(trainer)
        if self.copies is not None:
            folder = Path(trainer.default_root_dir)
            shutil.copytree(folder, self.copies / f"{len(list(self.copies.iterdir())):03d}")


def carried(
    folder: Path,
    made: Any,
    copies: Path | None,
    patience: int | None,
    more: tuple[pl.Callback, ...] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Train and test in `folder`, going on from its checkpoint if it has one; all that came out."""
    folder.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(made.seed, workers=True, verbose=False)
    net = nets.adapted(made)
    data, module = made.strategy.data(made, net), made.strategy.module(net, made)
    last = folder / "checkpoints" / "last.ckpt"
    start = str(last) if last.is_file() else None
    keeper = Kept(every_n_train_steps=1)
    keeper.copies = copies
    own = [Resume(), LastValidation(), MetricsFile(folder, fresh=start is None)]
    trainer = pl.Trainer(
        **settings,
        accumulate_grad_batches=made.accumulate,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[keeper, EarlyStopping(patience=patience), *own, *more],
        default_root_dir=str(folder),
        plugins=DurableCheckpoints(),
    )
    trainer.fit(module, datamodule=data, ckpt_path=start)
    last_weights = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = trainer.optimizers[0].state_dict()
    schedule = trainer.lr_scheduler_configs[0].scheduler.state_dict()
    drawn = (torch.rand(4).tolist(), np.random.rand(), random.random())
    module.restore_best(trainer)
    trainer.test(module, datamodule=data, verbose=False)
    return {
        "weights": last_weights,
        "best": net.state_dict(),
        "optimizer": optimizer,
        "schedule": {k: v for k, v in schedule.items() if k != "lr_lambdas"},
        "drawn": drawn,
        "history": history(folder),
        "answers": module.answers,
        "tokens": module.tokens_trained,
        "step": trainer.global_step,
        "validation": {k: float(v) for k, v in module.validation_metrics.items()},
    }


def history(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """The same bits, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{number}]")
    else:
        assert one == other, where


CASES: dict[str, dict[str, Any]] = {
    "epochs": {"max_epochs": 2},
    "steps": {"max_steps": 6},
    "steps and epochs": {"max_steps": 50, "max_epochs": 2},
    "half epochs": {"max_epochs": 2, "val_check_interval": 0.5},
    "half epochs, accumulating": {"max_epochs": 2, "val_check_interval": 0.5, "accumulate": 2},
    "accumulating": {"max_epochs": 2, "accumulate": 2},
    "accumulating, steps": {"max_steps": 5, "accumulate": 2, "val_check_interval": 2},
    "every third batch": {"max_steps": 6, "val_check_interval": 3},
    "across epochs": {"max_steps": 7, "val_check_interval": 3, "check_val_every_n_epoch": None},
    "every second epoch": {"max_epochs": 3, "check_val_every_n_epoch": 2},
    "never validated": {"max_epochs": 2, "limit_val_batches": 0},
    "never validated, steps": {"max_steps": 7, "limit_val_batches": 0},
    "short epochs": {"max_epochs": 2, "limit_train_batches": 3},
    "early": {"max_epochs": 9, "patience": 1, "rate": 0.5},
    "early within epochs": {"max_epochs": 9, "patience": 2, "rate": 0.5, "val_check_interval": 2},
    "workers": {"max_epochs": 2, "workers": 2},
    "tokens": {"max_epochs": 2, "budget": 160, "accumulate": 2},
}
SHORT = ("half epochs, accumulating", "early within epochs", "short epochs")


def posed(tmp_path: Path, settings: dict[str, Any]) -> Any:
    task, examples = fitted.texts(16)
    task = replace(
        task,
        num_workers=settings.pop("workers", 0),
        tokens_per_batch=settings.pop("budget", None),
    )
    folder = tiny.bert(tmp_path / "bert", hidden_dropout_prob=0.2, labels=3)
    made = fitted.context(folder, FullFinetune(), (task, examples))
    rate = settings.pop("rate", 1e-3)
    optim = replace(made.optim, learning_rate=rate, schedule="cosine", warmup=2)
    return replace(made, accumulate=settings.pop("accumulate", 1), optim=optim)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SHORT else pytest.mark.long) for n in CASES]
)
def test_from_every_checkpoint_to_the_same_bits(name: str, tmp_path: Path) -> None:
    settings = dict(CASES[name])
    made, patience = posed(tmp_path, settings), settings.pop("patience", None)
    copies = tmp_path / "copies"
    copies.mkdir()
    whole = carried(tmp_path / "whole", made, copies, patience, **settings)
    points = sorted(copies.iterdir())
    assert len(points) >= 4
    for point in points:
        assert_equal(whole, carried(point, made, None, patience, **settings), point.name)


def test_twice_in_a_row(tmp_path: Path) -> None:
    """From each checkpoint of a run that was itself resumed from its first one."""
    settings = {"max_epochs": 2, "val_check_interval": 0.5}
    made = posed(tmp_path, settings)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    whole = carried(tmp_path / "whole", made, first, None, **settings)
    carried(first / "000", made, second, None, **settings)
    for point in sorted(second.iterdir()):
        assert_equal(whole, carried(point, made, None, None, **settings), point.name)
