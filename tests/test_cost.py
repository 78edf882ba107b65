"""What a run says it cost: real tokens, seconds of training alone, memory of all processes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from llmexp.callbacks.checkpoint import Checkpoint
from llmexp.callbacks.cost import Cost
from tests.test_distributed import TWO, inputs, rows, run  # noqa: F401  (a fixture)


class Slow(pl.LightningModule):
    """A step takes 20 ms, a validation 50 ms, a test 300 ms; each batch holds five tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.tokens_trained = 0

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        time.sleep(0.02)
        self.tokens_trained += 5
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, number: int) -> None:
        time.sleep(0.05)
        self.log("val/loss", self.layer(batch).sum())

    def test_step(self, batch: torch.Tensor, number: int) -> None:
        time.sleep(0.3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SlowSaving(Checkpoint):
    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        self.saving_seconds += 0.5
        time.sleep(0.5)


def test_seconds_are_those_of_training_and_validation(tmp_path: Path) -> None:
    record: Any = SimpleNamespace(cost={"fit_seconds": 0.0})
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[SlowSaving(), Cost(record)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader = DataLoader(torch.ones(10, 1))
    module = Slow()
    trainer.fit(module, loader, DataLoader(torch.ones(1, 1)))
    trainer.test(module, DataLoader(torch.ones(1, 1)), verbose=False)
    assert record.cost["fit_seconds"] == pytest.approx(2 * (10 * 0.02 + 0.05), abs=0.3)
    assert record.cost["tokens_trained"] == 100
    assert record.cost["peak_memory_mb"] > 50


@pytest.mark.long
def test_tokens_are_counted_unpadded_and_over_all_processes(
    inputs: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Twice the epochs, twice the tokens; two processes train the same ones as one."""
    some = [*inputs, "strategy=lora"]
    once = run(tmp_path / "one", *some, "data.batch_size=8")["cost"]
    twice = run(tmp_path / "two", *some, "hardware=ddp", *TWO, "trainer.max_epochs=2")["cost"]
    assert twice["tokens_trained"] == 2 * once["tokens_trained"]
    # Memory of a CPU is shared by the processes: theirs add up.
    assert twice["peak_memory_mb"] > 1.5 * once["peak_memory_mb"]
    seconds = twice["fit_seconds"]
    assert twice["tokens_per_second"] == pytest.approx(twice["tokens_trained"] / seconds)
    assert 0 < seconds < twice["total_seconds"]
    assert [row["index"] for row in rows(tmp_path / "two")] == list(range(17))
    assert json.loads((tmp_path / "two" / "result.json").read_text())["examples"]["test"] == 17


def test_the_first_step_is_counted_from_the_start_of_the_process(tmp_path: Path) -> None:
    """Accumulated batches are no step; a test and a second epoch change nothing."""
    record: Any = SimpleNamespace(cost={"fit_seconds": 0.0, "first_step_seconds": None})
    seen: list[float | None] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(record.cost["first_step_seconds"])

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        limit_train_batches=4,
        callbacks=[Cost(record), Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    before = time.time() - psutil.Process().create_time()
    trainer.fit(Slow(), DataLoader(torch.ones(10, 1)))
    after = time.time() - psutil.Process().create_time()
    assert seen[0] is None
    assert before < seen[1] < after  # type: ignore[operator]
    assert set(seen[2:]) == {seen[1]}
