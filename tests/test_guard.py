"""A loss or gradient that is not finite never reaches the weights, on any process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from llmexp.callbacks.guard import Guard
from llmexp.errors import Diverged
from llmexp.modules import update
from tests import fitted, nets, runs, tiny

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "tests" / "extend"
sys.path.append(str(LAB))
from mylab.faults import Norms, Poison  # noqa: E402

DDP = ["hardware=ddp", "hardware.accelerator=cpu", "hardware.devices=2", "data.batch_size=2"]


class Stub(NamedTuple):
    """What the guard asks of a module, for updates made by hand."""

    net: Any
    context: Any
    global_step: int
    rows: list[int]

    def loss(self, batch: Any) -> Any:
        bad = batch["index"].tolist()[0] in self.rows
        total = torch.tensor(float("nan") if bad else 1.0)
        return type("Loss", (), {"total": total})


@pytest.fixture
def context(tmp_path: Path) -> Any:
    return fitted.context(tiny.bert(tmp_path / "bert", labels=3), nets.lora())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_bad_update_changes_no_weight(bad: float, defer: bool, policy: Any, context: Any) -> None:
    """Judged at once, or skipped by the optimizer itself and judged before anything is saved."""
    net = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
    before = net.weight.detach().clone()
    module = Stub(net, context, 7, [5])
    batch = {"index": torch.tensor([4, 5, 6])}

    def step(loss: Tensor, guard: Guard) -> None:
        optimizer.zero_grad()
        loss.backward()
        norm = update.global_norm(net.parameters())
        guard.check(module, optimizer, loss.detach(), norm, [batch], defer=defer, drop=True)
        optimizer.step()

    guard = Guard(policy=policy)
    said = r"step 7: the loss is \S+ .* at learning rate 0\.1 on train rows 5;"
    if policy == "raise":
        with pytest.raises(Diverged, match=said):
            step(net(torch.ones(3)).sum() * bad, guard)
            guard.settle(module)
    else:
        step(net(torch.ones(3)).sum() * bad, guard)
        guard.settle(module)
        assert guard.state_dict()["skipped"] == 1
        assert "the update is left out" in context.examples.notes[0]
    assert torch.equal(net.weight, before)
    # A step that was left out leaves no trace in the optimizer: the next one is the first.
    step(net(torch.ones(3)).sum(), Guard())
    other = torch.optim.AdamW([copy := before.clone().requires_grad_()], lr=0.1, fused=True)
    (copy @ torch.ones(3)).sum().backward()
    other.step()
    assert torch.equal(net.weight, copy)


def trained(context: Any, *callbacks: pl.Callback, epochs: int = 2, **more: Any) -> Any:
    """A module carried through Lightning with these callbacks."""
    pl.seed_everything(0, verbose=False)
    net = nets.adapted(context)
    module = context.strategy.module(net, context)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        default_root_dir=str(context.folder),
        **more,
    )
    trainer.fit(module, datamodule=context.strategy.data(context, net))
    return module


def test_the_row_is_named_and_the_update_left_out(context: Any) -> None:
    """Only the update that holds the row is missing; what is trained afterwards is finite."""
    guard = Guard(policy="skip")
    module = trained(context, Poison(row=7), guard)
    assert guard.skipped == 1
    (said,) = [n for n in context.examples.notes if "left out" in n]
    assert "on train rows 7;" in said and "learning rate" in said
    assert all(p.isfinite().all() for p in module.parameters())


def test_raise_stops_before_the_step(context: Any) -> None:
    with pytest.raises(Diverged, match=r"step \d+: the loss is nan .* on train rows 7;"):
        trained(context, Poison(row=7), Guard())


def test_too_many_left_out_end_the_run(context: Any) -> None:
    with pytest.raises(Diverged, match=r"2 updates were left out, more than callbacks.guard"):
        trained(context, Poison(row=7), Poison(row=8, epoch=1), Guard("skip", max_skipped=1))


def test_a_gradient_alone_that_is_not_finite_is_caught(context: Any) -> None:
    class Blow(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            update.stepped(optimizer)[0].grad[0] = float("inf")

    with pytest.raises(Diverged, match=r"the gradient norm inf .* on train rows \d+, \d+"):
        trained(context, Blow(), Guard())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_callbacks_see_the_gradient_that_is_judged(context: Any, accumulate: int) -> None:
    """In their hook before the step it is the mean's, not the sum over an update's rows."""

    class Judged(pl.Callback):
        norms: list[float] = []

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if not trainer.fit_loop._should_accumulate():
                self.norms.append(float(module.update_norm))

    seen, judged = Norms(), Judged()
    judged.norms = []
    trained(context, seen, judged, accumulate_grad_batches=accumulate)
    assert len(seen.seen) == len(judged.norms) > 1
    assert seen.seen == pytest.approx(judged.norms, rel=1e-5)


def test_a_spike_is_told_with_its_rows(context: Any) -> None:
    """Opt-in: a loss many times what it was names step and rows; steady training says nothing."""

    def jumps(*callbacks: pl.Callback) -> list[str]:
        context.examples.notes.clear()
        trained(context, *callbacks, epochs=8)
        return [note for note in context.examples.notes if "the loss jumped" in note]

    jump = Poison(row=7, epoch=7, factor=1e5)
    assert not jumps(Guard(spike=8.0))
    (said,) = jumps(jump, Guard(spike=8.0))
    rows = said.partition("train rows ")[2].split(", ")
    assert "7" in rows and said.startswith("step ")
    assert not jumps(jump, Guard())


def test_weights_that_overflowed_are_not_saved(context: Any) -> None:
    guard = Guard()
    guard.saved({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.long)}, 3)
    with pytest.raises(Diverged, match="step 3: the weights are not finite"):
        guard.saved({"a": torch.tensor([1.0, float("inf")])}, 3)


def test_a_validation_that_is_not_finite_ends_the_run(context: Any) -> None:
    Guard().validated(1.0, 3)
    Guard("skip").validated(float("nan"), 3)
    with pytest.raises(Diverged, match="step 3: the validation loss is nan"):
        Guard().validated(torch.tensor(float("nan")), 3)


def command(tmp_path: Path, *overrides: str, **more: str) -> tuple[int, dict[str, Any], str]:
    """A real run: its exit code, result, and what it said."""
    model = tiny.bert(tmp_path / "bert", labels=3)
    where = {"PYTHONPATH": f"{ROOT}:{LAB}", "LLMEXP_ALLOW": "mylab", "OMP_NUM_THREADS": "1"}
    common = [*runs.classified(tmp_path / "data"), "model=local", f"model.path={model}"]
    common += ["tracking=none", f"cache.dir={tmp_path / 'cache'}", "data.batch_size=4"]
    done = subprocess.run(
        [sys.executable, "run.py", *common, *overrides, f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=ROOT,
        env={**os.environ, **where, **more},
        capture_output=True,
        text=True,
        timeout=300,
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    return done.returncode, result, done.stdout + done.stderr


POISON = "callbacks.poison={_target_: mylab.faults.Poison, row: 7, epoch: 1}"


@pytest.mark.parametrize(
    "hardware",
    [pytest.param([], id="one"), pytest.param(DDP, id="two", marks=pytest.mark.long)],
)
def test_a_run_that_diverges_keeps_its_good_checkpoint(tmp_path: Path, hardware: list[str]) -> None:
    """One row is bad in the second epoch, on one process: both stop, exit 3."""
    more = ["callbacks.checkpoint.every_n_train_steps=3", "trainer.max_epochs=3"]
    code, result, said = command(tmp_path, POISON, *more, *hardware)
    assert (code, result["status"]) == (3, "diverged"), said
    assert "on train rows 7;" in result["reason"] and "at learning rate" in result["reason"]
    assert "Traceback" not in said and "continue with:" in said
    for name in ("best", "last"):
        state = torch.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert state["global_step"] >= 5
        assert all(value.isfinite().all() for value in state["state_dict"].values())


@pytest.mark.long
def test_a_spike_on_one_of_two_processes_is_told_with_the_rows_of_both(tmp_path: Path) -> None:
    poison = "callbacks.poison={_target_: mylab.faults.Poison, row: 7, epoch: 7, factor: 1e5}"
    more = ["callbacks.guard.spike=8.0", "trainer.max_epochs=8", "optim.learning_rate=1e-4"]
    code, result, said = command(tmp_path, poison, *more, *DDP)
    assert code == 0, said
    (told,) = [note for note in result["notes"] if "the loss jumped to" in note]
    rows = told.partition("train rows ")[2].split(", ")
    # Two rows of each process are in an update.
    assert "7" in rows and len(rows) == 4


@pytest.mark.long
def test_two_processes_leave_out_the_same_update(tmp_path: Path) -> None:
    """With the row's update left out, two processes end as one."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    skip = [POISON, "callbacks.guard.policy=skip", "trainer.max_epochs=3"]
    code, one, said = command(tmp_path / "one", *skip)
    assert code == 0, said
    code, two, said = command(tmp_path / "two", *skip, *DDP)
    assert code == 0, said
    assert [n for n in one["notes"] if "train rows 7; the update is left out (1 so far)" in n]
    assert [n for n in two["notes"] if "train rows 7; the update is left out (1 so far)" in n]
    assert two["metrics"]["test/loss"] == pytest.approx(one["metrics"]["test/loss"], abs=1e-5)
