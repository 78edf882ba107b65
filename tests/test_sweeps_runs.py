"""Whole sweeps of real runs: killed, spread over processes, sent through a queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmexp.jobs.results import read_result
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ["debug=smoke", "hydra.sweep.dir=sweep"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'extend'}",
    "OMP_NUM_THREADS": "1",
    "LLMEXP_ALLOW": "mylab",
}
WITNESS = "+callbacks.witness={_target_: mylab.witness.Witness}"


def command(cwd: Path, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), "-m", *SMOKE, f"cache.dir={cwd}/cache", *words]


def sweep(cwd: Path, *words: str, code: int = 0) -> list[dict[str, Any]]:
    """The jobs of a sweep that ran to its end."""
    done = subprocess.run(
        command(cwd, *words), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == code, done.stdout + done.stderr
    return jobs(cwd)


def jobs(cwd: Path) -> list[dict[str, Any]]:
    file = cwd / "sweep" / "sweep.json"
    return json.loads(file.read_text())["jobs"] if file.is_file() else []


def witness(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What each process of that rank knew when it began to train."""
    return [json.loads(line) for line in (folder / f"witness-{rank}.jsonl").open()]


def alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def statuses(cwd: Path) -> list[str]:
    return [job["status"] for job in jobs(cwd)]


@pytest.mark.long
def test_killed_half_way_and_started_again_it_repeats_nothing_complete(tmp_path: Path) -> None:
    """What was cut off goes on from its last checkpoint."""
    slow = "+callbacks.pace={_target_: mylab.limits.Pace, seconds: 0.5}"
    words = ["strategy=head_only,lora", "seed=0,1", "trainer.max_epochs=6", slow, WITNESS]
    process = subprocess.Popen(command(tmp_path, *words), cwd=tmp_path, env=ENVIRONMENT)
    wanted = ["completed", "completed", "running"]
    until(lambda: statuses(tmp_path)[:3] == wanted, "the third job runs", lambda: alive(process))
    third = tmp_path / "sweep" / jobs(tmp_path)[2]["name"]
    saved = third / "checkpoints" / "last.ckpt"
    until(saved.is_file, "the third job saves", lambda: alive(process))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = jobs(tmp_path)
    kept = [tmp_path / "sweep" / job["name"] / "result.json" for job in before[:2]]
    stamps = [file.stat().st_mtime_ns for file in kept]
    after = sweep(tmp_path, *words)
    assert [job["status"] for job in after] == ["completed"] * 4
    assert [job["starts"] for job in after] == [1, 1, 2, 1]
    assert [file.stat().st_mtime_ns for file in kept] == stamps
    assert [job["name"] for job in after] == [job["name"] for job in before]
    first, second = witness(third)
    assert first["step"] == 0 and second["step"] >= 1 and first["identity"] == second["identity"]


@pytest.mark.long
def test_a_job_that_is_killed_stops_no_other_and_runs_again(tmp_path: Path) -> None:
    words = ["strategy=head_only", "seed=0,1"]
    process = subprocess.Popen(command(tmp_path, *words), cwd=tmp_path, env=ENVIRONMENT)
    until(
        lambda: statuses(tmp_path)[:1] == ["running"], "the first job runs", lambda: alive(process)
    )
    os.kill(jobs(tmp_path)[0]["pid"], signal.SIGKILL)
    assert process.wait(timeout=300) == 1
    assert statuses(tmp_path) == ["failed", "completed"]
    assert jobs(tmp_path)[0]["reason"] == "killed by signal 9"
    assert [job["starts"] for job in sweep(tmp_path, *words)] == [2, 1]


@pytest.mark.long
def test_a_sweep_of_runs_on_two_processes_each_has_one_folder_a_job(tmp_path: Path) -> None:
    """lightning-hydra-template #393: extra folders, and other overrides on the second rank."""
    two = ["hardware=ddp", "hardware.accelerator=cpu", "hardware.devices=2"]
    found = sweep(tmp_path, "strategy=head_only", "seed=0,1", *two, WITNESS)
    folders = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    assert sorted(f.name for f in folders) == sorted(job["name"] for job in found)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "sweep"}
    for seed, job in enumerate(found):
        result = read_result(tmp_path / "sweep" / job["name"])
        assert result["seed"] == seed and f"seed={seed}" in result["overrides"]
        seen = [witness(tmp_path / "sweep" / job["name"], rank) for rank in range(2)]
        same = {"seed": seed, "identity": job["identity"], "step": 0}
        assert seen == [[{"rank": rank} | same] for rank in range(2)]
        # Each example once over both processes.
        lines = (tmp_path / "sweep" / job["name"] / "predictions.jsonl").read_text().splitlines()
        assert [json.loads(line)["index"] for line in lines] == list(range(len(lines)))


@pytest.mark.long
def test_jobs_through_submitit_end_as_those_on_this_machine_do(tmp_path: Path) -> None:
    for name, labels in (("good", "ab"), ("bad", "aa")):
        rows = [{"text": f"row {i} of {name}", "label": labels[i % 2]} for i in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parts = ["data=classification", "data.validation=null", "data.test=null", "strategy=head_only"]
    words = ["data.train=good.jsonl,bad.jsonl", *parts, "hydra/launcher=submitit_local"]
    good, bad = sweep(tmp_path, *words, code=1)
    assert (good["status"], bad["status"]) == ("completed", "failed")
    assert "every row has the label 'a'" in bad["reason"]
    again = sweep(tmp_path, *words, code=1)
    assert [job["starts"] for job in again] == [1, 2]


@pytest.mark.long
def test_a_sweep_through_submitit_that_is_killed_and_started_again_watches_its_job(
    tmp_path: Path,
) -> None:
    """The queue has the job: it is not sent twice, and it can be stopped as before."""
    words = ["strategy=head_only", "seed=0,1", "hydra/launcher=submitit_local"]
    words += ["trainer.max_epochs=500", "trainer.max_steps=100000"]
    first = subprocess.Popen(command(tmp_path, *words), cwd=tmp_path, env=ENVIRONMENT)
    files = (tmp_path / "sweep").glob
    until(
        lambda: any("val/loss" in f.read_text() for f in files("*/metrics.jsonl")), "a validation"
    )
    first.kill()
    first.wait()
    (writer,) = {f.read_text() for f in files("*/.lock")}
    second = subprocess.Popen(
        command(tmp_path, *words), cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE
    )
    state = tmp_path / "sweep" / "sweep.json"
    workers = [{"pid": second.pid}]
    until(
        lambda: [{"pid": w["pid"]} for w in json.loads(state.read_text())["workers"]] == workers,
        "the sweep that was started again is on the board",
    )
    until(lambda: statuses(tmp_path)[:1] == ["running"], "the job is found running")
    second.send_signal(signal.SIGTERM)
    said, _ = second.communicate(timeout=240)
    assert second.returncode == 143 and "still on its way" in said, said
    (job, other) = jobs(tmp_path)
    assert (job["status"], other["status"], job["starts"]) == ("preempted", "pending", 1)
    assert len(list(files(".submitit/*_submitted.pkl"))) == 1
    assert {f.read_text() for f in files("*/.lock")} == {writer}
    assert list((tmp_path / "sweep" / job["name"] / "checkpoints").glob("*.ckpt"))


@pytest.mark.long
def test_a_stopped_sweep_through_submitit_saves_its_jobs(tmp_path: Path) -> None:
    words = ["strategy=head_only", "seed=0,1", "hydra/launcher=submitit_local"]
    more = ["trainer.max_epochs=500", "trainer.max_steps=100000"]
    process = subprocess.Popen(command(tmp_path, *words, *more), cwd=tmp_path, env=ENVIRONMENT)
    files = (tmp_path / "sweep").glob
    until(
        lambda: any("val/loss" in f.read_text() for f in files("*/metrics.jsonl")),
        "a job has validated",
        lambda: alive(process),
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=240) == 143
    first, second = jobs(tmp_path)
    assert (first["status"], second["status"]) == ("preempted", "pending")
    assert list((tmp_path / "sweep" / first["name"] / "checkpoints").glob("*.ckpt"))
