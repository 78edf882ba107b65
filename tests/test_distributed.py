"""Two processes end where one does: same loss, every row once, a model that loads."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.ports import free_port
from tests.test_signals import at, environment, stopped

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ("head_only", "partial_finetune", "full_finetune", "lora", "qlora", "from_scratch")
TWO = ("hardware.accelerator=cpu", "hardware.devices=2", "data.batch_size=4")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name a tiny encoder and rows whose counts no process count divides."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.bert(folder / "bert", labels=3)
    draw = random.Random(0)
    words = ["river", "bear", "question", "answer", "story", "list", "number", "python", "fox"]
    for split, rows in (("train", 43), ("validation", 13), ("test", 17)):
        with (folder / f"{split}.jsonl").open("w") as file:
            for i in range(rows):
                text = " ".join(draw.choices(words, k=draw.randint(2, 20)))
                file.write(json.dumps({"text": text, "label": f"class {i % 3}"}) + "\n")
    return [
        "model=local",
        f"model.path={folder / 'bert'}",
        "data=classification",
        *(f"data.{split}={folder / split}.jsonl" for split in ("train", "validation", "test")),
        "data.columns={text: text, label: label}",
        "optim.learning_rate=1e-3",
        "tracking=none",
        f"cache.dir={folder / 'cache'}",
        "trainer.max_epochs=1",
    ]


def run(folder: Path, *overrides: str, code: int = 0) -> dict[str, Any]:
    """The result of one run of the command line."""
    done = subprocess.run(
        [sys.executable, "run.py", *overrides, f"hydra.run.dir={folder}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads((folder / "result.json").read_text())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def assert_same(one: Path, two: Path) -> None:
    """Equal losses, tokens and answers; every test row exactly once."""
    first, second = (json.loads((f / "result.json").read_text()) for f in (one, two))
    assert first["metrics"].keys() == second["metrics"].keys()
    for key in ("val/loss", "test/loss"):
        assert second["metrics"][key] == pytest.approx(first["metrics"][key], abs=1e-5)
    assert first["cost"]["tokens_trained"] == second["cost"]["tokens_trained"]
    for key in ("trainable_parameters", "total_parameters"):
        assert first["cost"][key] == second["cost"][key]
    assert [row["index"] for row in rows(two)] == list(range(17))
    for mine, other in zip(rows(one), rows(two), strict=True):
        assert mine["prediction"] == other["prediction"]
        assert mine["scores"] == pytest.approx(other["scores"], abs=1e-4)


def assert_loads(folder: Path) -> None:
    """A fresh process predicts from `model/` what was recorded."""
    wanted = rows(folder)[:5]
    source = (
        "import sys, json, llmexp; "
        "print(json.dumps(llmexp.load(sys.argv[1]).predict(sys.argv[2:])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(folder), *(row["input"] for row in wanted)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [answer["prediction"] for answer in found] == [row["prediction"] for row in wanted]


def assert_trained_only(folder: Path) -> None:
    """The checkpoint holds what was trained, whole; nothing quantised."""
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    cost = json.loads((folder / "result.json").read_text())["cost"]
    assert sum(value.numel() for value in state.values()) == cost["trainable_parameters"]
    assert all(value.is_floating_point() for value in state.values())


def test_ddp_on_two_processes_ends_as_one(inputs: list[str], tmp_path: Path) -> None:
    run(tmp_path / "one", *inputs, "strategy=lora", "data.batch_size=8")
    run(tmp_path / "two", *inputs, "strategy=lora", "hardware=ddp", *TWO)
    assert_same(tmp_path / "one", tmp_path / "two")
    assert not list((tmp_path / "two").glob("rank_*.log"))


@pytest.mark.long
@pytest.mark.parametrize("strategy", TRAINING)
def test_every_strategy_ends_the_same_replicated_or_sharded(
    strategy: str, inputs: list[str], tmp_path: Path
) -> None:
    run(tmp_path / "one", *inputs, f"strategy={strategy}", "data.batch_size=8")
    for hardware in ("ddp", "fsdp"):
        folder = tmp_path / hardware
        run(folder, *inputs, f"strategy={strategy}", f"hardware={hardware}", *TWO)
        assert_same(tmp_path / "one", folder)
        assert_trained_only(folder)
        assert_loads(folder)


def launched(tmp_path: Path, inputs: list[str], start: list[dict[str, str]]) -> None:
    """Processes started from outside share one folder and end as one process does."""
    run(tmp_path / "one", *inputs, "strategy=lora", "data.batch_size=8")
    overrides = [*inputs, "strategy=lora", "data.batch_size=4", "hardware=multi_node"]
    more = ["hardware.accelerator=cpu", f"hydra.run.dir={tmp_path / 'two'}"]
    command = [sys.executable, "run.py", *overrides, *more]
    processes = [subprocess.Popen(command, cwd=ROOT, env=os.environ | e) for e in start]
    assert [process.wait(timeout=240) for process in processes] == [0] * len(start)
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.long
def test_torchrun_starts_the_processes(inputs: list[str], tmp_path: Path) -> None:
    """With the environment that torchrun gives to each of two processes on one node."""
    shared = {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    launched(tmp_path, inputs, [shared | {"RANK": n, "LOCAL_RANK": n} for n in "01"])


@pytest.mark.long
def test_slurm_starts_the_processes(inputs: list[str], tmp_path: Path) -> None:
    """With the environment that srun gives to each of two tasks on two nodes."""
    shared = {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "test",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_LOCALID": "0",
        "SLURM_NODELIST": "localhost",
    }
    launched(tmp_path, inputs, [shared | {"SLURM_PROCID": n, "SLURM_NODEID": n} for n in "01"])


def test_processes_from_outside_must_share_a_folder(inputs: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "run.py", *inputs, "strategy=lora"],
        cwd=ROOT,
        env=os.environ | {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2 and "hydra.run.dir" in done.stderr


@pytest.mark.long
def test_a_sharded_run_goes_on_where_it_stopped(inputs: list[str], tmp_path: Path) -> None:
    """Told to stop in its first validation, then resumed: the optimizer's shards are put back."""
    some = [*inputs, "strategy=full_finetune", "hardware=fsdp", *TWO, "trainer.max_epochs=2"]
    whole = run(tmp_path / "whole", *some)
    slow = [*some, at("validation")]
    code, _ = stopped(tmp_path, slow, signal.SIGTERM, "validation")
    assert code == 143
    resumed = subprocess.run(
        [sys.executable, "-m", "llmexp", "resume", str(tmp_path / "run")],
        cwd=ROOT,
        env=environment(tmp_path / "places"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    parts = json.loads((tmp_path / "run" / "result.json").read_text())
    assert parts["status"] == "completed"
    for key, value in whole["metrics"].items():
        assert parts["metrics"][key] == pytest.approx(value, abs=1e-5), key
