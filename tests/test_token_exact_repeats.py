"""One seed and one state of the cache are one run, bit for bit, in whichever process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import runs
from tests.test_distributed import TRAINING

ROOT = Path(__file__).resolve().parents[1]
SOME = ["lora:instruction", "head_only:classification"]
ALL = {
    "classification": (*TRAINING, "feature_based"),
    "instruction": TRAINING,
    "language_modeling": TRAINING,
}


def repeated(folder: Path, wanted: list[str]) -> None:
    """Two processes that hash strings differently, each with a folder and a cache of its own."""
    folders = [folder / "one", folder / "two"]
    for own in folders:
        own.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.repeat_worker", str(own), *wanted],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": str(n), "OMP_NUM_THREADS": "1"},
            stdout=(own / "log").open("w"),
            stderr=subprocess.STDOUT,
        )
        for n, own in enumerate(folders)
    ]
    try:
        codes = [process.wait(timeout=540) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], (folders[0] / "log").read_text()[-3000:]


def curves(folder: Path) -> list[dict[str, Any]]:
    """What was logged, but for the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    clock = ("seconds", "time", "per_second")
    return [{k: v for k, v in json.loads(x).items() if not k.endswith(clock)} for x in lines]


def assert_one_run(one: Path, two: Path) -> None:
    """Equal weights, predictions and metrics; not one bit off."""
    first, second = (json.loads((f / "result.json").read_text()) for f in (one, two))
    assert first["metrics"] == second["metrics"] and first["metrics"]
    assert runs.predictions(one) == runs.predictions(two)
    assert (one / "predictions.jsonl").read_bytes() == (two / "predictions.jsonl").read_bytes()
    assert curves(one) == curves(two)
    states = [torch.load(f / "checkpoints" / "best.ckpt", weights_only=True) for f in (one, two)]
    mine, theirs = (state["state_dict"] for state in states)
    assert mine.keys() == theirs.keys() and mine
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def check(folder: Path, wanted: list[str]) -> None:
    repeated(folder, wanted)
    for one in wanted:
        for state in ("cold", "warm"):
            name = f"{one.replace(':', '-')}-{state}"
            assert_one_run(folder / "one" / name, folder / "two" / name)


def test_one_seed_is_one_run_bit_for_bit(tmp_path: Path) -> None:
    check(tmp_path, SOME)


@pytest.mark.long
@pytest.mark.parametrize("task", ALL)
def test_one_seed_is_one_run_bit_for_bit_for_every_strategy(tmp_path: Path, task: str) -> None:
    check(tmp_path, [f"{strategy}:{task}" for strategy in ALL[task]])
