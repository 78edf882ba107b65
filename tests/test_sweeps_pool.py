"""Whatever becomes of one job, the others run; what is complete is never run again."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.errors import UserError
from llmexp.jobs import job as job_process
from llmexp.jobs.job import read_config
from llmexp.jobs.results import read_result
from llmexp.sweeps import names
from llmexp.sweeps.board import Board
from llmexp.sweeps.claim import Claim
from llmexp.sweeps.identity import identity
from llmexp.sweeps.job import Job
from llmexp.sweeps.local import VISIBLE, Local
from llmexp.sweeps.pool import Pool
from llmexp.sweeps.status import show, state_of
from tests.sweeping import Scripts, jobs, starts
from tests.waiting import until

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
SEEDS = [[f"seed={n}"] for n in range(4)]


def sweep(root: Path, place: Scripts, *lines: list[str]) -> tuple[int, Board]:
    """Run the jobs as a start of the sweep does; its exit code."""
    made = jobs(root, *(lines or SEEDS))
    board = Board(root)
    board.enter([])
    board.plan(made)
    Pool(board, place).run(iter(made))
    code = board.close()
    board.claim.close()
    return code, board


def by_seed(board: Board) -> dict[str, str]:
    return {e.overrides[-1].partition("=")[2]: e.status for e in board.entries()}


def test_a_killed_job_or_one_without_memory_takes_no_other_with_it(tmp_path: Path) -> None:
    place = Scripts(seed0="is killed", seed1="runs out of memory", seed2="says nothing")
    code, board = sweep(tmp_path, place)
    assert code == 1
    ends = {"0": "failed", "1": "out_of_memory", "2": "failed", "3": "completed"}
    assert by_seed(board) == ends
    reasons = [entry.reason for entry in board.entries()]
    assert reasons[0] == "killed by signal 9"
    assert reasons[2] == "ended with exit code 1: it went wrong"


def test_started_again_it_runs_only_what_is_not_complete(tmp_path: Path) -> None:
    sweep(tmp_path, Scripts(seed1="is killed", seed2="says nothing"))
    code, board = sweep(tmp_path, Scripts())
    assert code == 0
    assert [starts(job) for job in jobs(tmp_path, *SEEDS)] == [1, 2, 2, 1]
    assert [entry.starts for entry in board.entries()] == [1, 2, 2, 1]
    assert all(entry.seconds is not None for entry in board.entries())


def test_a_job_whose_files_were_changed_while_it_ran_failed_and_stops_no_other(
    tmp_path: Path,
) -> None:
    ends = ("loses its config", "changes its config", "breaks its config", "loses its folder")
    place = Scripts(**{f"seed{n}": end for n, end in enumerate(ends)})
    code, board = sweep(tmp_path, place, *SEEDS, ["seed=4"])
    assert code == 1 and list(by_seed(board).values()) == ["failed"] * 4 + ["completed"]
    reasons = [str(entry.reason) for entry in board.entries()]
    assert all(r.startswith("its folder was changed while it ran: ") for r in reasons[:4])
    whys = ("has no config.yaml", "another experiment", "no recorded config", "has no config.yaml")
    assert all(why in reason for why, reason in zip(whys, reasons, strict=False))
    # Started again: what is somebody else's now is left alone, what is gone is made anew.
    code, board = sweep(tmp_path, Scripts(), *SEEDS, ["seed=4"])
    assert code == 1 and list(by_seed(board).values()) == ["failed"] * 3 + ["completed"] * 2


def test_from_its_first_word_on_a_start_knows_what_is_complete(tmp_path: Path) -> None:
    """What `llmexp status` and the next start read, had this one been killed at that moment."""
    sweep(tmp_path, Scripts(seed2="is killed", seed3="says nothing"))
    board, made = Board(tmp_path), jobs(tmp_path, *SEEDS)
    pids = [entry.pid for entry in board.entries()]
    board.open([])
    shown = state_of(tmp_path)
    planned = ["completed", "completed", "pending", "pending"]
    assert [job["status"] for job in shown["jobs"]] == planned
    board.open([])  # the one before was killed before it had composed its jobs
    board.plan(made[:1])
    board.open([])  # and this one when it knew of the first job only
    board.plan(made)
    assert [entry.status for entry in board.entries()] == planned
    assert [entry.pid for entry in board.entries()] == pids and None not in pids
    assert [entry.starts for entry in board.entries()] == [1] * 4
    assert [entry.values for entry in board.entries()][:2] == [{"val/loss": 0.0}, {"val/loss": 1.0}]
    took = sum(entry.seconds or 0.0 for entry in board.entries()[:2])
    assert state_of(tmp_path)["remaining"] == pytest.approx(took, abs=0.06)


def test_a_second_attempt_that_dies_unheard_does_not_keep_the_first_ones_end(
    tmp_path: Path,
) -> None:
    sweep(tmp_path, Scripts(seed0="runs out of memory"), ["seed=0"])
    _, board = sweep(tmp_path, Scripts(seed0="is killed"), ["seed=0"])
    (entry,) = board.entries()
    assert (entry.status, entry.reason) == ("failed", "killed by signal 9")


def test_n_jobs_run_side_by_side_each_in_a_slot_of_its_own(tmp_path: Path) -> None:
    place = Scripts(n_jobs=3, seed0="waits", seed1="waits", seed2="waits")
    made = jobs(tmp_path, *SEEDS)

    def end_them() -> None:
        until(lambda: sum((job.folder / "waiting").exists() for job in made) == 3, "three jobs run")
        assert not made[3].folder.exists()
        for entry in Board(tmp_path).entries()[:3]:
            assert entry.pid is not None
            os.kill(entry.pid, signal.SIGTERM)

    ender = threading.Thread(target=end_them)
    ender.start()
    code, board = sweep(tmp_path, place)
    ender.join()
    assert code == 1 and sorted(place.slots[:3]) == [0, 1, 2]
    assert list(by_seed(board).values()) == ["preempted"] * 3 + ["completed"]


@pytest.mark.parametrize(
    ("given", "seen"),
    [(None, ["0", "1"]), ("6,7", ["6", "7"]), ("GPU-a1, MIG-b2", ["GPU-a1", "MIG-b2"])],
)
def test_each_job_sees_one_device_of_those_the_sweep_may_see(
    given: str | None, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if given is not None:
        monkeypatch.setenv(VISIBLE, given)
    says = [sys.executable, "-S", "-c", f"import os; print(os.environ['{VISIBLE}'])"]
    monkeypatch.setattr(job_process, "command", lambda folder: says)
    place = Local(n_jobs=2, devices=[0, 1])
    made = jobs(tmp_path, *SEEDS[:2])
    for slot, job in enumerate(made):
        job.prepare()
        assert place.start(job, slot).wait() == 0
    assert [(job.folder / "console.log").read_text().strip() for job in made] == seen


def test_a_device_that_the_sweep_was_not_given_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "6")
    (job,) = jobs(tmp_path, SEEDS[0])
    job.prepare()
    with pytest.raises(UserError, match="there is no device 1; CUDA_VISIBLE_DEVICES gives"):
        Local(n_jobs=2, devices=[0, 1]).start(job, 1)


@pytest.mark.parametrize(("number", "status"), [(15, "preempted"), (2, "interrupted")])
def test_a_signal_reaches_the_running_job_and_starts_no_other(
    number: int, status: str, tmp_path: Path
) -> None:
    first = jobs(tmp_path, *SEEDS)[0]

    def send() -> None:
        until((first.folder / "waiting").exists, "the first job runs")
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    code, board = sweep(tmp_path, Scripts(seed0="waits"))
    sender.join()
    assert code == 128 + number and board.read()["status"] == status
    # SIGINT ends a script that only expects SIGTERM: dead without a word.
    first_ends = {15: "preempted", 2: "failed"}[number]
    assert list(by_seed(board).values()) == [first_ends, "pending", "pending", "pending"]


class Late(Scripts):
    """A signal comes when the job's process is up, and before anybody knows of it."""

    def start(self, job: Job, slot: int) -> subprocess.Popen[bytes]:
        process = super().start(job, slot)
        while not (job.folder / "waiting").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        return process


def test_a_signal_that_comes_while_a_job_starts_reaches_it(tmp_path: Path) -> None:
    began = time.monotonic()
    code, board = sweep(tmp_path, Late(seed0="waits"))
    assert code == 143 and time.monotonic() - began < 30
    assert list(by_seed(board).values()) == ["preempted"] + ["pending"] * 3


def test_a_job_is_not_started_when_a_signal_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = Job.prepare

    def prepared(job: Job) -> None:
        prepare(job)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Job, "prepare", prepared)
    code, board = sweep(tmp_path, Scripts())
    assert code == 143 and list(by_seed(board).values()) == ["pending"] * 4
    assert [starts(job) for job in jobs(tmp_path, *SEEDS)] == [0] * 4


def test_a_sweep_that_waits_for_what_a_killed_start_left_can_be_stopped(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, SEEDS[0])
    words = [sys.executable, "-c", "import time; time.sleep(60)", str(job.folder)]
    orphan = subprocess.Popen(words)
    job.entry.pid = orphan.pid
    before = signal.getsignal(signal.SIGTERM)

    def send() -> None:
        while signal.getsignal(signal.SIGTERM) is before:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    board = Board(tmp_path)
    board.open([])
    board.plan([job])
    assert Pool(board, Scripts()).run(iter([job])) == signal.SIGTERM
    assert orphan.poll() is None
    orphan.kill()
    orphan.wait()
    assert starts(job) == 0 and [entry.status for entry in board.entries()] == ["pending"]


def test_a_cut_off_sweep_is_shown_as_it_is_not_as_it_was(tmp_path: Path) -> None:
    made = jobs(tmp_path, *SEEDS)
    board = Board(tmp_path)
    board.open([])
    made[0].entry.status, made[0].entry.pid = "running", 2**22 + 1
    board.plan(made)
    state = board.read()
    state["workers"][0]["pid"] = 2**22 + 1
    (tmp_path / "sweep.json").write_text(json.dumps(state))
    shown = state_of(tmp_path)
    assert shown["status"] == "cut off" and shown["remaining"] is None
    assert [job["status"] for job in shown["jobs"]] == ["cut off"] + ["pending"] * 3


def test_remaining_time_is_what_the_complete_ones_took(tmp_path: Path) -> None:
    made = jobs(tmp_path, *SEEDS)
    board = Board(tmp_path)
    board.open([])
    for job in made[:2]:
        job.entry.status, job.entry.seconds = "completed", 30.0
    board.plan(made)
    assert state_of(tmp_path)["remaining"] == 60.0


def test_remaining_time_goes_by_jobs_of_the_same_strategy_where_there_are_any(
    tmp_path: Path,
) -> None:
    """A sweep that begins with the cheapest strategy says nothing of the dearest by its mean."""
    names = ("zero_shot", "lora", "head_only")
    made = jobs(tmp_path, *([f"strategy={s}", f"seed={n}"] for s in names for n in range(2)))
    board = Board(tmp_path)
    board.open([])
    for job, seconds in zip(made[:3], (8.0, 8.0, 50.0), strict=True):
        job.entry.status, job.entry.seconds = "completed", seconds
    board.plan(made)
    shown = state_of(tmp_path)
    # The second lora as the first; of head_only nothing is known but the mean of all.
    assert shown["remaining"] == pytest.approx(50.0 + 2 * 22.0)
    paper = Console(file=io.StringIO(), width=100)
    show(shown, tmp_path, paper)
    assert "roughly 1 min 34 s remain" in paper.file.getvalue()  # type: ignore[attr-defined]


def test_one_folder_has_one_grid_or_the_workers_of_one_search(tmp_path: Path) -> None:
    grid, other, worker, second = (Claim(tmp_path, shared) for shared in (False,) * 2 + (True,) * 2)
    assert grid.take()
    for refused in (other, worker):
        with pytest.raises(UserError, match="is running this sweep"):
            refused.take()
    grid.close()
    assert worker.take()
    worker.share()
    assert not second.take()
    with pytest.raises(UserError, match="is running this sweep"):
        other.take()
    assert [worker.leave(), second.leave()] == [False, True]


def trees(*overrides: str) -> str:
    (job,) = compose_jobs(list(overrides), "run", None, False)
    return identity(job.tree)


def test_identity_is_what_is_computed_not_where_or_who_watches() -> None:
    same = trees("seed=1")
    assert trees("seed=1", "tracking=csv", "cache.dir=elsewhere", "tags=[a]", "resume=auto") == same
    assert trees("seed=1", "trainer.log_every_n_steps=3", "name=other", "dry=true") == same
    for change in ("seed=2", "optim.learning_rate=0.1", "data.limit.train=7", "model.dropout=0.3"):
        assert trees("seed=1", change) != same, change


def test_identity_survives_being_written_down(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, ["optim.learning_rate=1e-5", "data.limit.train=3"])
    job.prepare()
    assert identity(read_config(job.folder)[0]) == job.entry.identity


def test_names_are_safe_and_find_the_same_sweep_again() -> None:
    overrides = ["strategy=lora,qlora", "seed=0,1", "data.train=../a b/ü.csv"]
    name = names.sweep_name(overrides)
    assert NAME.fullmatch(name) and name.startswith("strategy-lora-qlora_seed-0-1_")
    assert names.sweep_name(overrides[::-1]).rpartition("_")[2] == name.rpartition("_")[2]
    assert names.sweep_name([*overrides, "hydra.launcher.n_jobs=2", "tracking=none"]) == name
    assert names.sweep_name([*overrides, "seed=0,1,2"]) != name
    assert names.sweep_name(["+sweep=lora_rank"]).startswith("lora-rank_")
    for line in ("x=" + "y" * 300, "name=../../etc", "data.train=/,\\", "a='..','.'", "~x"):
        assert NAME.fullmatch(names.sweep_name([line])), line


def test_a_sweep_is_named_by_what_it_asks_not_by_how_far_it_goes() -> None:
    search = ["+sweep=optuna", "strategy=lora"]
    name = names.sweep_name(search)
    for key in ("n_trials=40", "prune=false", "startup_trials=3"):
        assert names.sweep_name([*search, f"hydra.sweeper.{key}"]) == name
    for line in ("hydra.launcher.n_jobs=2", "hydra/launcher=submitit_local", "hydra.sweep.dir=x"):
        assert names.sweep_name([*search, line]) == name
    asked = ("space={a: {low: 1, high: 2}}", "seed=1", "minimize=[val/loss]", "params.seed=1")
    others = {names.sweep_name([*search, f"hydra.sweeper.{line}"]) for line in asked}
    assert len(others | {name}) == len(asked) + 1


@pytest.mark.parametrize(
    ("line", "seeds"),
    [("params.seed=1", ["1"]), ("params.seed=1,2", ["1", "2"]), ("params={seed: 1}", ["1"])],
)
def test_a_named_sweep_takes_another_key_or_replaces_one(line: str, seeds: list[str]) -> None:
    words = ["+sweep=lora_rank", f"hydra.sweeper.{line}", "hydra.sweeper.params.strategy.rank=2,4"]
    made = compose_jobs(open_keys(words), "run", None, False)
    found = [(job.tree["strategy"]["rank"], str(job.tree["seed"])) for job in made]
    assert found == [(rank, seed) for rank in (2, 4) for seed in seeds]


def test_names_hold_no_secret() -> None:
    name = names.sweep_name(["tracking.entity=a,b", "model.token=abcd1234,efgh5678"])
    assert "abcd1234" not in name and "***" not in name


def test_a_job_is_named_by_what_it_alone_sets(tmp_path: Path) -> None:
    lines = [["data.limit.train=8", "strategy=lora", f"strategy.rank={n}"] for n in (2, 4)]
    found = [job.entry.name for job in jobs(tmp_path, *lines)]
    assert [name.rpartition("_")[0] for name in found] == ["rank-2", "rank-4"]
    assert all(NAME.fullmatch(name) for name in found)
    changed = jobs(tmp_path, *([*line, "optim.weight_decay=0.5"] for line in lines))
    assert found[0] != changed[0].entry.name


def test_a_folder_of_another_experiment_is_not_taken_for_this_one(tmp_path: Path) -> None:
    same = "hydra.sweep.subdir=one"
    sweep(tmp_path, Scripts(), ["seed=0", same])
    (job,) = jobs(tmp_path, ["seed=1", same])
    assert read_result(job.folder)["status"] == "completed" and not job.complete
