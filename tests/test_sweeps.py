"""A sweep: a folder for each job, a table of all of them, and a failed job that stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmexp.jobs.results import read_result
from llmexp.sweeps.board import Board

ROOT = Path(__file__).parents[1]
SMOKE = ["debug=smoke", "hydra.sweep.dir=sweep"]


def llmexp(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "run.py"), *words, *SMOKE, f"cache.dir={cwd}/cache"]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def jobs(cwd: Path) -> list[Path]:
    return [cwd / "sweep" / entry.name for entry in Board(cwd / "sweep").entries()]


def test_a_failed_job_stops_no_other_and_is_in_the_table(tmp_path: Path) -> None:
    for name, labels in (("good", "ab"), ("bad", "aa"), ("fine", "ba")):
        rows = [{"text": f"row {i} of {name}", "label": labels[i % 2]} for i in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parts = ["data.validation=null", "data.test=null", "strategy=head_only"]
    files = "data.train=good.jsonl,bad.jsonl,fine.jsonl"
    done = llmexp(tmp_path, "-m", "data=classification", files, *parts)
    assert done.returncode == 1, done.stderr
    results = [read_result(folder) for folder in jobs(tmp_path)]
    assert [r["status"] for r in results] == ["completed", "failed", "completed"]
    assert "every row has the label 'a'" in results[1]["reason"]
    assert "every row has the label 'a'" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    table = done.stdout[done.stdout.index("\njob ") :].splitlines()
    for name in ("good", "bad", "fine"):
        status = "failed" if name == "bad" else "completed"
        assert [f" {status} " in line for line in table if line.startswith(f"train-{name}")] == [
            True
        ]
    assert sum(line.startswith("failed: train-bad") for line in table) == 1


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_another_launcher_keeps_the_promise_too(launcher: str, tmp_path: Path) -> None:
    """Its jobs are processes of their own all the same; the first one fails."""
    for name, labels in (("good", "ab"), ("bad", "aa")):
        rows = [{"text": f"row {i} of {name}", "label": labels[i % 2]} for i in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["data=classification", "data.validation=null", "data.test=null", "strategy=head_only"]
    words += ["data.train=bad.jsonl,good.jsonl", f"hydra/launcher={launcher}"]
    done = llmexp(tmp_path, "-m", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    found = Board(tmp_path / "sweep").entries()
    assert sorted(entry.status for entry in found) == ["completed", "failed"]
    again = llmexp(tmp_path, "-m", *words)
    assert again.stdout.count("complete already") == 1
    assert sorted(entry.starts for entry in Board(tmp_path / "sweep").entries()) == [1, 2]


def test_a_launcher_that_is_not_installed_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done = llmexp(tmp_path, "-m", "seed=0,1", "hydra/launcher=ray")
    assert done.returncode == 2 and not (tmp_path / "sweep").exists()
    said = "hydra/launcher has no ray.yaml; known are local, submitit_local, submitit_slurm"
    assert said in done.stderr


def test_a_named_sweep_runs_its_jobs_without_m(tmp_path: Path) -> None:
    done = llmexp(tmp_path, "+sweep=lora_rank", "hydra.sweeper.params={strategy.rank: '1,2'}")
    assert done.returncode == 0, done.stderr
    assert [json.loads((f / "result.json").read_text())["status"] for f in jobs(tmp_path)] == [
        "completed",
        "completed",
    ]


@pytest.mark.long
def test_every_strategy_in_one_command_and_one_table(tmp_path: Path) -> None:
    done = llmexp(tmp_path, "+sweep=strategies")
    assert done.returncode == 0, done.stderr
    results = [read_result(folder) for folder in jobs(tmp_path)]
    there = {path.stem for path in (ROOT / "conf" / "strategy").glob("*.yaml")}
    assert {result["strategy"] for result in results} == there
    again = llmexp(tmp_path, "+sweep=strategies")
    assert again.stdout.count("complete already") == len(there)
