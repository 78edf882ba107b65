"""What a run says it cost: real tokens, seconds of training alone, memory of all processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from llmexp.callbacks import cost
from llmexp.callbacks.checkpoint import Checkpoint
from llmexp.callbacks.cost import Cost
from llmexp.jobs.lives import Lives, spent
from llmexp.jobs.outcome import Stopped
from llmexp.jobs.results import read_result
from tests import tiny
from tests.runs import classified, finished, resumed
from tests.test_distributed import TWO, inputs, rows, run  # noqa: F401  (a fixture)


class Clock:
    """Stands still but for what somebody sleeps."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Slow(pl.LightningModule):
    """A step takes 20 ms, a validation 50 ms, a test 300 ms; each batch holds five tokens."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__()
        self.sleep = sleep
        self.layer = torch.nn.Linear(1, 1)
        self.tokens_trained = 0

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        self.sleep(0.02)
        self.tokens_trained += 5
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, number: int) -> None:
        self.sleep(0.05)
        self.log("val/loss", self.layer(batch).sum())

    def test_step(self, batch: torch.Tensor, number: int) -> None:
        self.sleep(0.3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SlowSaving(Checkpoint):
    ticks: Clock

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        self.saving_seconds += 0.5
        self.ticks.sleep(0.5)


def test_seconds_are_those_of_training_and_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, by a clock of their own: not the first look at a validation, a saving or a test."""
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    saving = SlowSaving()
    saving.ticks = clock
    record: Any = SimpleNamespace(cost={"fit_seconds": 0.0}, lives=Lives(tmp_path, False))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[saving, Cost(record)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader = DataLoader(torch.ones(10, 1))
    module = Slow(clock.sleep)
    trainer.fit(module, loader, DataLoader(torch.ones(1, 1)))
    trainer.test(module, DataLoader(torch.ones(1, 1)), verbose=False)
    assert record.cost["fit_seconds"] == pytest.approx(2 * (10 * 0.02 + 0.05))
    assert clock.now > 2.0
    assert record.cost["tokens_trained"] == 100
    assert record.cost["peak_memory_mb"] > 50


def test_a_process_that_was_killed_spent_what_it_wrote_down(tmp_path: Path) -> None:
    """Whatever other programs said about it later; none of it was resumed, so it was lost."""
    result = {"started": 1000.0, "cost": {"total_seconds": 0.0, "lost_seconds": 5.0}}
    assert spent(tmp_path, {}) == 0
    for name, moment in (("provenance.json", 1003.0), ("metrics.jsonl", 1010.0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))
    (tmp_path / "result.json").write_text(json.dumps(result | {"status": "failed"}))
    lives = Lives(tmp_path, resumes=True)
    assert lives.before == lives.lost() == 15
    lives.kept = 12.0
    assert lives.lost() == 3 and lives.seconds() >= 12
    assert Lives(tmp_path, resumes=False).before == 0
    closed = {"started": 1000.0, "cost": {"total_seconds": 7.0, "lost_seconds": 2.0}}
    assert spent(tmp_path, closed) == 9


class Dies(pl.Callback):
    """Ends the process, as far as the run can tell, where the fourth step begins."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, i: int) -> None:
        time.sleep(0.3)
        if trainer.global_step == 3:
            raise Stopped("interrupted", "asked", 2)


def test_a_resumed_run_costs_all_that_led_to_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed and restarted run may not end up cheaper than its own training."""
    lines = [*classified(tmp_path), "model=local", f"model.path={tiny.bert(tmp_path / 'n')}"]
    lines += [
        "strategy=head_only",
        "callbacks.checkpoint.every_n_train_steps=2",
        "data.batch_size=2",
    ]
    lines += [f"cache.dir={tmp_path / 'cache'}"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("llmexp.callbacks.progress.progress", Dies)
        finished(tmp_path / "run", *lines)
    first = read_result(tmp_path / "run")["cost"]
    cost = resumed(tmp_path / "run")["cost"]
    # Two of its steps are in the checkpoint that was resumed, so are their seconds.
    assert cost["total_seconds"] >= cost["fit_seconds"] > 0.6
    checkpoint = first["total_seconds"] - cost["lost_seconds"]
    assert 0.6 < checkpoint < cost["total_seconds"] and cost["lost_seconds"] >= 0.3
    # This process computed the features: what it found in the cache later was its own.
    assert cost["cache_hit"] and cost["spared_seconds"] == 0 < cost["prefix_seconds"]
    assert cost["peak_memory_mb"] >= first["peak_memory_mb"]


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


def test_memory_is_that_of_the_process_not_of_what_started_it() -> None:
    """A child of one that holds 1.5 GB says what it holds itself."""
    child = "from llmexp.callbacks.cost import peak_memory_mb as peak; print(peak())"
    parent = (
        "import subprocess, sys; held = b'x' * 1_500_000_000; "
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    alone, started = (
        float(subprocess.check_output([sys.executable, "-c", program], text=True))
        for program in (child, parent)
    )
    assert 100 < alone < 1000
    assert started == pytest.approx(alone, rel=0.2)


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
