"""SIGTERM, Ctrl-C and SLURM's warning in every phase of a real run: saved, recorded, exit code."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llmexp.jobs.signals import ONE_WISH_SECONDS
from tests import runs, tiny
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "tests" / "extend"
TERM = (signal.SIGTERM, 143, "preempted")
INT = (signal.SIGINT, 130, "interrupted")
DDP = ["hardware=ddp", "hardware.accelerator=cpu", "hardware.devices=2", "data.batch_size=2"]
SLOW = "_target_: mylab.slow.Dawdle"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny.bert(folder / "bert", labels=3)
    small = ["data.batch_size=4", "tracking=none", f"cache.dir={folder / 'cache'}"]
    return [*runs.classified(folder), "model=local", f"model.path={model}", "strategy=lora", *small]


def at(place: str, deaf: bool = False) -> str:
    told = f"{SLOW}, place: {place}, deaf: {str(deaf).lower()}"
    return "callbacks.dawdle={" + told + "}"


# Where it is finished what was begun, as soon as the place lets it; elsewhere it ends at once,
# which is long before the place would.
PATIENT = ("training", "validation", "saving")
# Where it stops, what makes it stay there, and whether there is something to go on from.
PHASES: dict[str, tuple[str, list[str], bool]] = {
    "data preparation": ("rows", ["data.train=python:mylab.slow.rows", "data.test=null"], False),
    "feature extraction": (
        "forward",
        ["strategy=feature_based", "model._target_=mylab.slow.SlowModel", "cache.enabled=false"],
        False,
    ),
    "training": ("training", [at("training")], True),
    "validation": ("validation", [at("validation")], True),
    "saving": ("saving", [at("saving")], True),
    "test": ("test", [at("test")], True),
}


def by_place() -> dict[str, tuple[list[str], bool]]:
    return {place: (overrides, saved) for place, overrides, saved in PHASES.values()}


def environment(folder: Path, **more: str) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    lab = {"PYTHONPATH": f"{ROOT}:{LAB}", "LLMEXP_ALLOW": "mylab", "SLOW_PLACES": str(folder)}
    return {**os.environ, "OMP_NUM_THREADS": "1", **lab, **more}


def started(tmp_path: Path, overrides: list[str], **more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "run.py", *overrides],
        cwd=ROOT,
        env=environment(tmp_path / "places", **more),
        stdout=(tmp_path / "out").open("w"),
        stderr=subprocess.STDOUT,
    )


def reached(process: subprocess.Popen[bytes], mark: Path) -> None:
    try:
        until(mark.exists, f"it is at {mark.name}", lambda: process.poll() is None)
    except AssertionError:
        print((mark.parents[1] / "out").read_text())
        raise


def go(mark: Path) -> None:
    """It has stayed long enough."""
    mark.with_suffix(".go").touch()


def ended(process: subprocess.Popen[bytes], folder: Path) -> tuple[int, dict[str, Any]]:
    code = process.wait(timeout=120)
    return code, json.loads((folder / "result.json").read_text())


def stopped(
    tmp_path: Path, overrides: list[str], number: int, place: str, **more: str
) -> tuple[int, dict[str, Any]]:
    """A run that got a signal at a place: its exit code and its result."""
    folder = tmp_path / "run"
    process = started(tmp_path, [*overrides, f"hydra.run.dir={folder}"], **more)
    mark = tmp_path / "places" / place
    reached(process, mark)
    # So that the second of two processes is there too, mostly.
    time.sleep(0.3)
    process.send_signal(number)
    # With two processes the one that got it may be waiting for the other, which is the one there.
    if place in PATIENT or DDP[0] in overrides:
        go(mark)
    return ended(process, folder)


def assert_saved(folder: Path) -> None:
    """A whole checkpoint of a step that was made; nothing half-written beside it."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] >= 1
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    hidden = {p.name for p in folder.rglob("*") if p.name.startswith(".")}
    assert hidden <= {".lock"}


CASES = [(phase, *TERM) for phase in PHASES] + [(p, *INT) for p in ("data preparation", "saving")]
FAST = ("training",)


@pytest.mark.parametrize(
    ("phase", "number", "code", "status"),
    [pytest.param(*c, marks=[] if c[0] in FAST else pytest.mark.long) for c in CASES],
    ids=[f"{c[0]}-{c[3]}" for c in CASES],
)
def test_a_signal_in_every_phase(
    inputs: list[str], tmp_path: Path, phase: str, number: int, code: int, status: str
) -> None:
    place, overrides, saved = PHASES[phase]
    found, result = stopped(tmp_path, [*inputs, *overrides], number, place)
    assert (found, result["status"]) == (code, status)
    assert result["reason"] in ("received SIGTERM", "stopped by Ctrl-C")
    assert shlex.split(result["resume_command"])[:4] == ["python", "-m", "llmexp", "run"]
    assert "Traceback" not in (tmp_path / "out").read_text()
    if saved:
        assert_saved(tmp_path / "run")


@pytest.mark.long
def test_the_resume_command_goes_on(inputs: list[str], tmp_path: Path) -> None:
    overrides = [*inputs, at("training"), "trainer.max_epochs=3"]
    _, result = stopped(tmp_path, overrides, signal.SIGTERM, "training")
    before = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    process = started(tmp_path, shlex.split(result["resume_command"])[4:])
    code, result = ended(process, tmp_path / "run")
    assert (code, result["status"], result["reason"]) == (0, "completed", None)
    after = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert after["global_step"] == 3 * 5 > before["global_step"] >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_is_loaded(
    inputs: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    """`result.json` is there as soon as the folder is, and says how the run ended."""
    folder = tmp_path / "run"
    # Who sends it late finds the run at its rows, still.
    _, slow, _ = PHASES["data preparation"]
    process = started(tmp_path, [*inputs, *slow, f"hydra.run.dir={folder}"])
    reached(process, folder / "result.json")
    assert json.loads((folder / "result.json").read_text())["status"] == "running"
    process.send_signal(number)
    code, result = ended(process, folder)
    wanted = {signal.SIGTERM: (143, "preempted"), signal.SIGINT: (130, "interrupted")}
    assert (code, result["status"]) == wanted[number]
    assert "resume=auto" in result["resume_command"]


@pytest.mark.long
@pytest.mark.parametrize("deaf", [False, True], ids=["between steps", "inside a library"])
def test_a_second_signal_gives_up_at_once(inputs: list[str], tmp_path: Path, deaf: bool) -> None:
    folder = tmp_path / "run"
    process = started(tmp_path, [*inputs, at("training", deaf), f"hydra.run.dir={folder}"])
    reached(process, tmp_path / "places" / "training")
    process.send_signal(signal.SIGTERM)
    # Within ONE_WISH_SECONDS it would be the same wish, however late the first one is heard.
    time.sleep(4 * ONE_WISH_SECONDS)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, result = ended(process, folder)
    assert time.monotonic() - began < 60
    assert (code, result["status"]) == (143, "preempted")


def test_another_signal_is_a_second_one_also_within_a_second(
    inputs: list[str], tmp_path: Path
) -> None:
    """A terminal sends Ctrl-C to several processes; SIGTERM after it is somebody else."""
    folder = tmp_path / "run"
    process = started(tmp_path, [*inputs, at("training"), f"hydra.run.dir={folder}"])
    reached(process, tmp_path / "places" / "training")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, result = ended(process, folder)
    assert time.monotonic() - began < 45
    assert (code, result["status"]) == (143, "preempted")


def test_a_run_saves_though_nobody_reads_what_it_says(inputs: list[str], tmp_path: Path) -> None:
    """Of `run.py ... 2>&1 | tee log` Ctrl-C ends both."""
    folder = tmp_path / "run"
    (tmp_path / "out").touch()
    command = [sys.executable, "run.py", *inputs, at("training"), f"hydra.run.dir={folder}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(tmp_path / "places"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    reached(process, tmp_path / "places" / "training")
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    go(tmp_path / "places" / "training")
    code, result = ended(process, folder)
    assert (code, result["status"]) == (130, "interrupted")
    assert_saved(folder)


TOGETHER = [(place, *TERM) for place in ("rows", "forward", "training", "validation")]
TOGETHER += [("saving", *TERM), ("test", *TERM), ("forward", *INT), ("saving", *INT)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("place", "number", "code", "status"), TOGETHER, ids=[f"{c[0]}-{c[3]}" for c in TOGETHER]
)
def test_two_processes_stop_together(
    inputs: list[str], tmp_path: Path, place: str, number: int, code: int, status: str
) -> None:
    overrides, saved = by_place()[place]
    found, result = stopped(tmp_path, [*inputs, *DDP, *overrides], number, place)
    assert (found, result["status"]) == (code, status)
    if saved:
        assert_saved(tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize(("number", "code", "status"), [TERM, INT])
def test_a_signal_to_the_second_process_stops_both(
    inputs: list[str], tmp_path: Path, number: int, code: int, status: str
) -> None:
    folder = tmp_path / "run"
    overrides = [*inputs, *DDP, at("training"), f"hydra.run.dir={folder}"]
    process = started(tmp_path, overrides)
    reached(process, tmp_path / "places" / "training")
    os.kill(second(process.pid), number)
    go(tmp_path / "places" / "training")
    assert process.wait(timeout=120) == code
    assert json.loads((folder / "result.json").read_text())["status"] == status
    assert_saved(folder)


def second(first: int) -> int:
    """The process that the first one started as its second."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status, environment = (path / "stat").read_text(), (path / "environ").read_bytes()
        except OSError:
            continue
        parent = int(status.rpartition(")")[2].split()[1])
        if parent == first and b"LOCAL_RANK=1" in environment.split(b"\0"):
            return int(path.name)
    raise AssertionError("no second process")


SWEPT = [("training", *TERM), ("training", *INT)]
SWEPT += [(place, *TERM) for place in ("rows", "saving", "test")]


@pytest.mark.long
@pytest.mark.parametrize(
    ("place", "number", "code", "status"), SWEPT, ids=[f"{c[0]}-{c[3]}" for c in SWEPT]
)
def test_a_sweep_passes_it_on_and_ends(
    inputs: list[str], tmp_path: Path, place: str, number: int, code: int, status: str
) -> None:
    """The job that runs saves and says so; the next one never starts."""
    overrides, saved = by_place()[place]
    sweep = ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    subdir = "hydra.sweep.subdir=${hydra:job.num}"
    process = started(tmp_path, [*sweep, subdir, *inputs, *overrides])
    folder, mark = tmp_path / "sweep" / "0", tmp_path / "places" / place
    reached(process, mark)
    process.send_signal(number)
    if place in PATIENT:
        texts = (tmp_path / "out", folder / "console.log")
        until(
            lambda: any("finishing the step" in t.read_text() for t in texts if t.exists()),
            "the job has heard of it",
        )
        go(mark)
    found, result = ended(process, folder)
    print((tmp_path / "out").read_text())
    assert (found, result["status"]) == (code, status)
    if saved:
        assert_saved(folder)
    assert not (tmp_path / "sweep" / "1").exists()


def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job with one task, and a scontrol that writes down what it is asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tools / "scontrol").chmod(0o755)
    one = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "test", "SLURM_NODELIST": "localhost"}
    return {**one, **job, "PATH": f"{tools}:{os.environ['PATH']}"}


@pytest.mark.long
def test_slurm_warns_and_the_job_is_requeued(inputs: list[str], tmp_path: Path) -> None:
    """SIGUSR1 before the time limit: saved, queued again, and the same command goes on."""
    overrides = [*inputs, at("training"), "resume=auto", "trainer.max_epochs=2"]
    where = slurm(tmp_path)
    found, result = stopped(tmp_path, overrides, signal.SIGUSR1, "training", **where)
    assert (found, result["status"]) == (143, "preempted")
    assert result["reason"] == "received SIGUSR1; SLURM job 7 is requeued"
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert_saved(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("hpc_ckpt*"))
    again = started(tmp_path, [*overrides, f"hydra.run.dir={tmp_path / 'run'}"], **where)
    assert ended(again, tmp_path / "run")[1]["status"] == "completed"


@pytest.mark.long
def test_slurm_preempts_and_decides_itself(inputs: list[str], tmp_path: Path) -> None:
    found, result = stopped(
        tmp_path, [*inputs, at("training")], signal.SIGTERM, "training", **slurm(tmp_path)
    )
    assert (found, result["reason"]) == (143, "received SIGTERM")
    assert not (tmp_path / "asked").exists()


@pytest.mark.long
def test_a_job_that_would_begin_anew_is_not_requeued(inputs: list[str], tmp_path: Path) -> None:
    overrides = [*inputs, at("training")]
    found, result = stopped(tmp_path, overrides, signal.SIGUSR1, "training", **slurm(tmp_path))
    assert found == 143 and "not requeued: it would begin anew, say resume=auto" in result["reason"]
    assert not (tmp_path / "asked").exists()
