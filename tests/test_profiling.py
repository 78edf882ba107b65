"""`debug=profile`: phases make up the step, groups hold every operator, and the page says so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from llmexp.profiling.roof import roof
from llmexp.profiling.step_profiler import StepProfiler, half
from llmexp.profiling.timeline import PHASES, group_of, phase_of, phases
from tests import fitted, nets, tiny
from tests.runs import answered, finished


def table(page: str, head: str) -> dict[str, float]:
    """Milliseconds by the first column of a table."""
    part = page.split(f"| {head} |")[1].split("\n\n")[0]
    return {name: float(ms) for name, ms in re.findall(r"^\| ([\w -]+) \| ([\d.]+) \|", part, re.M)}


def train(folder: Path, wait: int, steps: int, accumulate: int = 1) -> None:
    made = fitted.context(tiny.bert(folder / "bert", labels=3), nets.lora())
    pl.seed_everything(0, verbose=False)
    net = nets.adapted(made)
    trainer = pl.Trainer(
        profiler=StepProfiler(wait=wait, steps=steps),
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        accumulate_grad_batches=accumulate,
        default_root_dir=str(folder),
    )
    data = made.strategy.data(made, net)
    trainer.fit(made.strategy.module(net, made), datamodule=data)


def test_a_page_and_a_trace_say_where_a_step_went(tmp_path: Path) -> None:
    train(tmp_path, wait=3, steps=4)
    page = (tmp_path / "profile" / "summary.md").read_text()
    assert page.startswith("# Where a step's time goes\n\n4 warmed-up steps, ")
    assert len(page.splitlines()) < 60, "one page"
    spent = table(page, "phase")
    step = spent.pop("step")
    assert set(spent) == set(PHASES)
    said = float(re.search(r"steps, ([\d.]+) ms each", page)[1])  # type: ignore[index]
    assert step == pytest.approx(said, abs=0.05), "phases are the whole step"
    assert min(spent.values()) >= 0
    for phase in ("data", "forward", "backward", "optimizer", "callbacks"):
        assert spent[phase] > 0, phase
    groups = table(page, "operators")
    assert {"matmul", "attention", "elementwise", "norm", "embedding"} <= set(groups)
    assert 0 < sum(groups.values()) < step
    assert "GFLOP/s here" in page
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert "aten::addmm" in names or "aten::mm" in names
    assert len([n for n in names if n.startswith("ProfilerStep")]) == 4


def test_the_command_line_profiles_and_ends_early(tmp_path: Path) -> None:
    """A batch of answers is written after it, not all that the test would have."""
    where = [*answered(tmp_path), "model=local", f"model.path={tiny.gpt2(tmp_path / 'gpt2')}"]
    few = ["data.batch_size=2", "trainer.profiler.wait=2", "trainer.profiler.steps=2"]
    few += ["trainer.max_steps=8", "trainer.max_epochs=4", "trainer.accumulate_grad_batches=2"]
    run = tmp_path / "run"
    result = finished(run, *where, *few, "strategy=lora", "debug=profile")
    assert result["status"] == "completed"
    page = (run / "profile" / "summary.md").read_text()
    assert page.startswith("# Where a step's time goes\n\n2 warmed-up steps, ")
    assert len(page.splitlines()) < 60, "one page"
    assert (run / "profile" / "trace.json").stat().st_size > 0
    lines = (run / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_a_step_is_an_update(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, wait=40, steps=4, accumulate=2)
    assert "9 steps were trained and 47 are needed" in caplog.text


def test_a_training_that_is_too_short_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, wait=40, steps=4)
    assert "15 steps were trained and 47 are needed" in caplog.text
    assert not (tmp_path / "profile" / "summary.md").exists()


def made_up(name: str, start: int, end: int) -> Any:
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(name=name, thread=1, time_range=span)


def test_a_range_within_a_range_counts_once() -> None:
    """The optimizer's closure runs forward and backward inside the optimizer's step."""
    step = [
        made_up("ProfilerStep#3", 0, 100),
        made_up("[pl][_TrainingEpochLoop].train_dataloader_next", 0, 10),
        made_up("[pl]run_training_batch", 10, 90),
        made_up("Optimizer.step#AdamW.step", 20, 80),
        made_up("[pl][Strategy]SingleDeviceStrategy.training_step", 25, 45),
        made_up("[pl][Strategy]SingleDeviceStrategy.backward", 45, 70),
        made_up("[pl][Callback]Curves.on_before_optimizer_step", 70, 72),
    ]
    found = phases(step)
    assert found == {
        "data": 10,
        "forward": 20,
        "backward": 25,
        "optimizer": 13,
        "callbacks": 2,
        "loop": 30,
    }
    assert sum(found.values()) == 100


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::addmm", "matmul"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::native_layer_norm_backward", "norm"),
        ("aten::embedding_dense_backward", "embedding"),
        ("aten::gelu", "elementwise"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::_log_softmax", "softmax and loss"),
        ("aten::copy_", "data movement"),
        ("bitsandbytes::dequantize_4bit", "4-bit"),
        ("mylib::new_thing", "other"),
    ],
)
def test_an_operator_is_in_one_group_and_in_no_phase(name: str, group: str) -> None:
    assert group_of(name) == group
    assert phase_of(name) is None


def test_the_roof_is_that_of_the_type_which_is_computed_in() -> None:
    assert roof(torch.device("cpu"), seconds=0.0) > 1e9
    assert half("bf16-mixed") is torch.bfloat16
    assert half("32-true") is None
