"""Jobs of a real sweep: none ends another or changes its numbers; what is kept is shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmexp.jobs.results import read_result
from llmexp.sweeps.status import state_of
from tests import runs, tiny
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "tests" / "extend"
ENVIRONMENT = os.environ | {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{LAB}",
    "OMP_NUM_THREADS": "1",
    "LLMEXP_ALLOW": "mylab",
}


def given(folder: Path) -> list[str]:
    """A tiny encoder with dropout on rows whose split no seed changes."""
    model = tiny.bert(folder / "bert", labels=3, hidden_dropout_prob=0.1)
    lines = [o for o in runs.classified(folder / "data") if "validation" not in o]
    more = [f"data.validation={runs.rows(folder / 'validation.jsonl', 9)}", "tracking=none"]
    return [*lines, *more, "model=local", f"model.path={model}", "trainer.max_epochs=2"]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=400)
    assert process.returncode == code, said
    return said


def run(folder: Path, *words: str) -> subprocess.Popen[str]:
    return started(folder, str(ROOT / "run.py"), *words)


def status(folder: Path, *words: str) -> subprocess.Popen[str]:
    return started(folder, "-m", "llmexp", "status", "sweep", *words)


def kept(cache: Path) -> set[str]:
    """What is in the cache, by its content's address."""
    return {f"{p.parent.name}/{p.name}" for p in cache.glob("*/*") if not p.name.startswith(".")}


@pytest.mark.long
def test_jobs_share_what_is_kept_and_nothing_else_and_status_shows_them_live(
    tmp_path: Path,
) -> None:
    lines = [*given(tmp_path), "strategy=head_only"]
    sweep = run(tmp_path, "-m", *lines, "seed=0,1", "cache.dir=shared", "hydra.sweep.dir=sweep")
    until(
        (tmp_path / "sweep" / "sweep.json").is_file,
        "the sweep has begun",
        lambda: sweep.poll() is None,
    )
    watch = status(tmp_path, "--watch")
    seen: list[dict[str, Any]] = []

    def over() -> bool:
        # Here, not by a process each: one of those may take as long as a job.
        seen.append(state_of(tmp_path / "sweep"))
        return sweep.poll() is not None

    until(over, "the sweep has ended", seconds=400)
    done(sweep)
    assert json.loads(done(status(tmp_path, "--json"))) == state_of(tmp_path / "sweep")
    assert "2 jobs: 2 completed" in done(watch)
    assert "2 jobs: 2 completed" in done(status(tmp_path))
    told = [[job["status"] for job in state["jobs"]] for state in seen]
    assert ["running", "pending"] in told and ["completed", "running"] in told
    half_way = seen[told.index(["completed", "running"])]
    assert half_way["status"] == "running" and half_way["remaining"] >= 0

    names = [job["name"] for job in seen[-1]["jobs"]]
    first, second = (tmp_path / "sweep" / name for name in names)
    assert [read_result(f)["cost"]["cache_hit"] for f in (first, second)] == [False, True]
    done(run(tmp_path, *lines, "seed=1", "cache.dir=own", "hydra.run.dir=alone"))
    alone = tmp_path / "alone"
    assert kept(tmp_path / "shared") == kept(tmp_path / "own")
    assert {p.split("/")[0] for p in kept(tmp_path / "own")} == {"features", "tokens"}
    # The same bits as alone, though another job ran before and left its states in the cache.
    weights = [p.relative_to(alone) for p in alone.glob("model/*.safetensors")]
    for name in ["predictions.jsonl", *map(str, weights)]:
        assert (second / name).read_bytes() == (alone / name).read_bytes(), name
    assert read_result(second)["metrics"] == read_result(alone)["metrics"]
    assert read_result(first)["metrics"] != read_result(second)["metrics"]


@pytest.mark.long
def test_a_job_without_memory_and_one_the_kernel_kills_stop_no_other(tmp_path: Path) -> None:
    """Real ones: the allocator is refused 4 GB, and the kernel ends a process out of time."""
    limit = ["+callbacks.limit={_target_: mylab.limits.Limit, of: nothing}"]
    words = [*given(tmp_path), "strategy=head_only", *limit, "hydra.sweep.dir=sweep"]
    said = done(run(tmp_path, "-m", *words, "callbacks.limit.of=memory,time,nothing"), code=1)
    jobs = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["out_of_memory", "failed", "completed"]
    assert "data.batch_size" in jobs[0]["reason"] and jobs[1]["reason"] == "killed by signal 9"
    assert all(job["name"] in said for job in jobs)
    again = done(run(tmp_path, "-m", *words, "callbacks.limit.of=memory,time,nothing"), code=1)
    jobs = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert [job["starts"] for job in jobs] == [2, 2, 1] and "complete already" in again


@pytest.mark.long
def test_real_trials_are_pruned_on_their_validation_metric(tmp_path: Path) -> None:
    """What was pruned was worse than the median at the same validation; the best was not."""
    space = "optim.learning_rate=0.01,1e-9"
    slow = "+callbacks.pace={_target_: mylab.limits.Pace, seconds: 0.6}"
    words = ["hydra.sweeper.n_trials=3", "hydra.sweeper.startup_trials=1", space, slow]
    words.append("hydra.sweeper.seed=4")  # the rate that learns nothing comes last
    lines = [o for o in given(tmp_path) if not o.startswith("trainer.max_epochs")]
    more = ["strategy=full_finetune", "trainer.max_epochs=8", "hydra.sweep.dir=sweep"]
    done(run(tmp_path, "-m", "+sweep=optuna", *lines, *more, *words))
    state = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    by_status: dict[str, list[Path]] = {"completed": [], "pruned": []}
    for job in state["jobs"]:
        by_status[job["status"]].append(tmp_path / "sweep" / job["name"])
    curves = {f: losses(f) for found in by_status.values() for f in found}
    assert len(curves) == 3 and by_status["pruned"] and by_status["completed"]
    for folder in by_status["pruned"]:
        reason = read_result(folder)["reason"]
        step = int(reason.partition("at validation ")[2].partition(":")[0]) - 1
        others = [curves[f][step] for f in by_status["completed"]]
        assert curves[folder][step] > min(others) and len(curves[folder]) < 8
    values = {f.name: read_result(f)["metrics"]["val/loss"] for f in by_status["completed"]}
    assert state["best"][0]["name"] == min(values, key=lambda name: values[name])


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["val/loss"] for line in lines if "val/loss" in line]
