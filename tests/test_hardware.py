"""What a run says of the machine it is on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llmexp import hardware
from llmexp.configure.compose import compose_jobs
from llmexp.configure.preflight import build
from llmexp.hardware import cpu_notes
from tests import tiny
from tests.runs import classified, finished


def notes(*overrides: str) -> list[str]:
    (job,) = compose_jobs(["tracking=none", *overrides], "run", None, False)
    return cpu_notes(build(job.tree))


HALF = ("+model.dtype=bfloat16", "+hardware.precision=bf16-mixed")


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
@pytest.mark.parametrize("asked", HALF)
def test_bfloat16_on_a_cpu_without_it_is_said(
    asked: str, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    (said,) = notes(asked, f"hardware={accelerator}")
    assert said.startswith(asked.removeprefix("+")) and "neither AMX nor avx512_bf16" in said
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert notes(asked, f"hardware={accelerator}") == []


def test_bfloat16_is_a_gpus_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert notes(HALF[0]) == []
    assert len(notes(HALF[0], "hardware=cpu")) == 1


def test_many_workers_on_a_cpu_are_said() -> None:
    assert notes("data.num_workers=2", "hardware=cpu") == []
    (said,) = notes("data.num_workers=3", "hardware=cpu")
    assert said.startswith("data.num_workers=3: ")


def test_a_run_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda: False)
    where = [*classified(tmp_path), "model=local", f"model.path={tiny.bert(tmp_path / 'bert')}"]
    result: dict[str, Any] = finished(tmp_path / "run", *where, HALF[0], "strategy=head_only")
    assert any("avx512_bf16" in note for note in result["notes"])


HIDDEN = """
from llmexp.hardware import hide_gpus
import torch

hide_gpus({"accelerator": "cpu"})
assert not torch.cuda.is_available() and torch.cuda.device_count() == 0
"""


def test_a_run_on_the_cpu_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without any, only what the process is told can be looked at."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    hardware.hide_gpus({"accelerator": "auto"})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    hardware.hide_gpus({"accelerator": "cpu"})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
