"""The training loop's edges: what is caught before a step, how a run stops, what is tested."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llmexp.modules import update
from tests.test_distributed import ROOT, TWO, inputs, run  # noqa: F401  (a fixture)
from tests.waiting import until


def test_a_norm_of_all_gradients_is_what_clips_them() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    net(torch.ones(5, 4)).square().sum().backward()
    copy = [p.grad.clone() for p in net.parameters()]
    wanted = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    clipped = [p.grad.clone() for p in net.parameters()]
    for p, grad in zip(net.parameters(), copy, strict=True):
        p.grad = grad
    norm = update.global_norm(net.parameters())
    update.clip(list(net.parameters()), norm, 0.1, "norm")
    torch.testing.assert_close(norm, wanted)
    torch.testing.assert_close([p.grad for p in net.parameters()], clipped)


def test_where_an_update_is_left_out_nothing_is_clipped() -> None:
    left_out = [nn.Parameter(torch.ones(2))]
    update.clip(left_out, torch.tensor(float("nan")), 0.1, "norm")
    assert left_out[0].grad is None


@pytest.mark.long
def test_divergence_keeps_the_good_checkpoint(inputs: list[str], tmp_path: Path) -> None:  # noqa: F811
    """A learning rate that overflows: status diverged, exit 3, checkpoints finite."""
    overrides = ["strategy=full_finetune", "optim.learning_rate=1e30", "optim.warmup=0"]
    more = ["callbacks.checkpoint.every_n_train_steps=1", "data.batch_size=8"]
    result = run(tmp_path / "a", *inputs, *overrides, *more, code=3)
    assert result["status"] == "diverged" and "learning rate" in result["reason"]
    state = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def stopped(folder: Path, overrides: list[str], number: int, wait: str) -> tuple[int, dict]:
    """Send a signal to the run once a file holds something; exit code and result."""
    command = [sys.executable, "run.py", *overrides, f"hydra.run.dir={folder}"]
    child = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    until(lambda: holds(folder / wait), f"{wait} holds something", lambda: child.poll() is None)
    child.send_signal(number)
    code = child.wait(timeout=120)
    return code, json.loads((folder / "result.json").read_text())


def holds(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


LONG_RUN = ["strategy=lora", "trainer.max_epochs=2000", "trainer.log_every_n_steps=1"]


@pytest.mark.long
@pytest.mark.parametrize("hardware", [("data.batch_size=8",), ("hardware=ddp", *TWO)])
@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(signal.SIGTERM, "preempted", 143), (signal.SIGINT, "interrupted", 130)],
)
def test_a_signal_finishes_the_step_and_saves(
    number: int,
    status: str,
    code: int,
    hardware: tuple[str, ...],
    inputs: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    found, result = stopped(
        tmp_path / "a", [*inputs, *LONG_RUN, *hardware], number, "metrics.jsonl"
    )
    assert (found, result["status"]) == (code, status)
    assert result["cost"]["fit_seconds"] > 0 and result["cost"]["tokens_trained"] > 0
    lines = [json.loads(s) for s in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    last = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] >= max(line["step"] for line in lines) - 1


@pytest.mark.long
def test_a_signal_before_training_stops_at_once(inputs: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Or, where the signal comes late, finishes a step: there are more than enough of them."""
    code, result = stopped(tmp_path / "a", [*inputs, *LONG_RUN], signal.SIGTERM, "result.json")
    assert (code, result["status"]) == (143, "preempted")


@pytest.mark.long
def test_a_lost_process_ends_the_run_and_is_named(inputs: list[str], tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "a"
    command = [sys.executable, "run.py", *inputs, *LONG_RUN, "hardware=ddp", *TWO]
    child = subprocess.Popen([*command, f"hydra.run.dir={folder}"], cwd=ROOT)
    until(lambda: holds(folder / "metrics.jsonl"), "it trains", lambda: child.poll() is None)
    others = children(child.pid)
    assert len(others) == 1
    os.kill(others[0], signal.SIGKILL)
    assert child.wait(timeout=120) == 1
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed" and "process 1 was killed by signal 9" in result["reason"]


def children(pid: int) -> list[int]:
    """Processes that `pid` started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


@pytest.mark.long
def test_the_best_checkpoint_is_tested(inputs: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Training that gets worse: val/loss in the result is the best one, with and without ranks."""
    steady = ["optim.schedule=constant", "optim.warmup=0"]
    worse = ["strategy=full_finetune", "trainer.max_epochs=2", *steady]
    tested = {}
    for name, hardware in (
        ("one", ("data.batch_size=8",)),
        ("ddp", ("hardware=ddp", *TWO)),
        ("fsdp", ("hardware=fsdp", *TWO)),
    ):
        result = run(tmp_path / name, *inputs, *worse, *hardware)
        losses = validation_losses(tmp_path / name)
        assert min(losses) < losses[-1]
        assert result["metrics"]["val/loss"] == pytest.approx(min(losses), abs=1e-6)
        tested[name] = result["metrics"]["test/loss"]
    assert tested["ddp"] == pytest.approx(tested["one"], abs=1e-5)
    assert tested["fsdp"] == pytest.approx(tested["one"], abs=1e-5)
    last = run(tmp_path / "last", *inputs, *worse, "data.batch_size=8", "callbacks.checkpoint=null")
    assert last["metrics"]["val/loss"] == pytest.approx(losses[-1], abs=1e-5)
    assert not (tmp_path / "last" / "checkpoints").exists()
    assert last["metrics"]["test/loss"] != pytest.approx(tested["one"], abs=1e-3)


def validation_losses(folder: Path) -> list[float]:
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    return [line["val/loss"] for line in lines if "val/loss" in line]


@pytest.mark.long
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_base_in_half_precision_is_trained_in_whole(
    precision: str,
    inputs: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """As hardware=gpu does: adapters and head are float32 on a bfloat16 base, and as good."""
    some = [*inputs, "strategy=lora", "data.batch_size=8"]
    whole = run(tmp_path / "whole", *some)
    half = run(tmp_path / "half", *some, "model.dtype=bfloat16", f"hardware.precision={precision}")
    state = torch.load(tmp_path / "half" / "checkpoints" / "best.ckpt", weights_only=True)
    assert {value.dtype for value in state["state_dict"].values()} == {torch.float32}
    assert half["metrics"]["test/loss"] == pytest.approx(whole["metrics"]["test/loss"], abs=0.03)


@pytest.mark.long
def test_early_stopping_is_one_override(inputs: list[str], tmp_path: Path) -> None:  # noqa: F811
    run(
        tmp_path / "a",
        *inputs,
        "strategy=full_finetune",
        "optim.learning_rate=3e-2",
        "data.batch_size=8",
        "trainer.max_epochs=30",
        "callbacks.early_stopping.patience=1",
    )
    losses = validation_losses(tmp_path / "a")
    assert len(losses) < 30
    assert losses[-1] > min(losses[:-1])
