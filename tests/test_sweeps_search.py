"""A search reaches exactly its number of trials, however often it is killed, and finds the best."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from llmexp.jobs.results import read_result
from llmexp.metrics import direction
from llmexp.sweeps.journal import repaired
from llmexp.sweeps.space import Choice, Range, leaves, probes
from llmexp.sweeps.trials import numbers
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ROOT / "tests" / "plugins"
CHEAP = "hydra.launcher._target_=hydra_plugins.llmexp_rates.Rates"


def started(cwd: Path, *words: str, seconds: float = 0.0, gate: str = "") -> subprocess.Popen[str]:
    """The command line on trials that take no time."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{PLUGINS}",
        "LLMEXP_ALLOW": "hydra_plugins.llmexp_rates",
        "LLMEXP_SECONDS": str(seconds),
        "LLMEXP_GATE": gate,
    }
    command = [sys.executable, str(ROOT / "run.py"), "+sweep=optuna", "tracking=none", CHEAP]
    return subprocess.Popen(
        [*command, "hydra.sweep.dir=search", *words],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == code, said
    return said


def study(cwd: Path) -> optuna.Study:
    backend = JournalFileBackend(str(cwd / "search" / "study.journal"))
    return optuna.load_study(study_name="search", storage=JournalStorage(backend))


def board(cwd: Path) -> dict[str, Any]:
    return json.loads((cwd / "search" / "sweep.json").read_text())


@pytest.mark.long
def test_twenty_trials_killed_and_resumed_are_exactly_twenty(tmp_path: Path) -> None:
    words = ["hydra.sweeper.n_trials=20", "hydra.launcher.n_jobs=2", "hydra.sweeper.prune=false"]
    for wanted in (4, 9):
        process = started(tmp_path, *words, seconds=0.2)
        until(
            lambda wanted=wanted: statuses(tmp_path).count("completed") >= wanted,
            f"{wanted} trials are complete",
            lambda process=process: process.poll() is None,
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = {job["name"]: job["starts"] for job in board(tmp_path)["jobs"]}
    complete = [
        name
        for name in before
        if read_result(tmp_path / "search" / name).get("status") == "completed"
    ]
    done(started(tmp_path, *words))
    trials = study(tmp_path).trials
    assert [trial.number for trial in trials] == list(range(20))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    jobs = board(tmp_path)["jobs"]
    assert len(jobs) == len({job["name"] for job in jobs}) == 20
    after = {job["name"]: job["starts"] for job in jobs}
    assert len(complete) >= 9 and all(after[name] == before[name] for name in complete)
    done(started(tmp_path, *words))
    assert len(study(tmp_path).trials) == 20
    assert {job["name"]: job["starts"] for job in board(tmp_path)["jobs"]} == after


def test_a_search_finds_the_best_and_says_so(tmp_path: Path) -> None:
    said = done(started(tmp_path, "hydra.sweeper.n_trials=6", "hydra.sweeper.prune=false"))
    found = study(tmp_path)
    assert len(found.trials) == 6 and "best:" in said and "note:" not in said
    (best,) = board(tmp_path)["best"]
    assert best["values"]["val/loss"] == pytest.approx(found.best_value)
    assert best["overrides"][0] in said and best["name"] in said
    # The job ran with the value that the study holds.
    rate = float(best["overrides"][0].partition("=")[2])
    assert rate == pytest.approx(found.best_params["optim.learning_rate"], rel=1e-5)


def test_an_accuracy_is_searched_upwards_and_its_best_trials_are_kept(tmp_path: Path) -> None:
    words = ["objective=test/accuracy", "hydra.sweeper.n_trials=6"]
    told = done(started(tmp_path, *words))
    assert told.count("note: test/accuracy chooses on the test set") == 1
    found = study(tmp_path)
    assert found.direction == optuna.study.StudyDirection.MAXIMIZE
    (best,) = board(tmp_path)["best"]
    done_ones = [trial.value for trial in found.trials if trial.state == TrialState.COMPLETE]
    assert best["values"]["test/accuracy"] == max(done_ones)
    said = done(started(tmp_path, "hydra.sweeper.minimize=[val/accuracy]"), code=2)
    assert "val/accuracy is better where it is higher; name it in hydra.sweeper.maximize" in said


def test_it_is_known_which_way_every_metric_is_better() -> None:
    lower = ("val/loss", "test/perplexity", "test/bits_per_byte", "cost/money", "cost/fit_seconds")
    higher = ("val/accuracy", "test/f1/loss", "test/f1_macro", "test/recall_macro", "test/chrf")
    assert {direction(key) for key in lower} == {"minimize"}
    assert {direction(key) for key in (*higher, "cost/tokens_per_second")} == {"maximize"}
    assert direction("val/error") is None


def test_several_objectives_show_the_pareto_front(tmp_path: Path) -> None:
    goals = [
        "hydra.sweeper.maximize=[test/accuracy]",
        "hydra.sweeper.minimize=[cost/total_seconds]",
    ]
    said = done(started(tmp_path, "hydra.sweeper.n_trials=6", *goals))
    front = board(tmp_path)["best"]
    results = [read_result(tmp_path / "search" / job["name"]) for job in board(tmp_path)["jobs"]]
    points = [(r["metrics"]["test/accuracy"], -r["cost"]["total_seconds"]) for r in results]
    undominated = {p for p in points if not any(q[0] > p[0] and q[1] > p[1] for q in points)}
    shown = {(f["values"]["test/accuracy"], -f["values"]["cost/total_seconds"]) for f in front}
    assert shown == undominated and "Pareto front" in said


def test_a_trial_that_finds_features_in_the_cache_costs_what_it_would_alone() -> None:
    """Else the first trial pays for all of them, and the front depends on their order."""
    cold = {"total_seconds": 50.0, "prefix_seconds": 30.0, "spared_seconds": 0.0}
    warm = {"total_seconds": 20.0, "prefix_seconds": 30.0, "spared_seconds": 30.0}
    seen = [numbers({"metrics": {"val/loss": 1}, "cost": cost}) for cost in (cold, warm)]
    assert [found["cost/total_seconds"] for found in seen] == [50.0, 50.0]
    assert numbers({"metrics": {"val/loss": 1}}) == {"val/loss": 1.0}


def test_a_trial_worse_than_the_median_is_pruned_and_that_is_no_failure(tmp_path: Path) -> None:
    words = ["hydra.sweeper.n_trials=8", "hydra.sweeper.startup_trials=2"]
    done(started(tmp_path, *words, seconds=1.0))
    jobs = {job["name"]: job for job in board(tmp_path)["jobs"]}
    pruned = [name for name, job in jobs.items() if job["status"] == "pruned"]
    assert pruned and len(jobs) == 8
    assert all(read_result(tmp_path / "search" / n)["status"] == "pruned" for n in pruned)
    assert all("worse than the median" in jobs[name]["reason"] for name in pruned)
    states = [trial.state for trial in study(tmp_path).trials]
    assert states.count(TrialState.PRUNED) == len(pruned)
    assert states.count(TrialState.COMPLETE) == 8 - len(pruned)


def test_workers_of_one_study_share_its_trials_and_one_may_be_killed(tmp_path: Path) -> None:
    """Processes that know nothing of each other: exactly so many trials, and none lost or twice."""
    words = ["hydra.sweeper.n_trials=9", "hydra.sweeper.prune=false"]
    gate = tmp_path / "gate"
    workers: list[subprocess.Popen[str]] = []

    def alive() -> bool:
        return all(worker.poll() is None for worker in workers)

    for _ in range(3):
        workers.append(started(tmp_path, *words, gate=str(gate)))
        # The first one is alone until its trial runs; the others come at once.
        until(lambda: "running" in statuses(tmp_path), "a trial runs", alive)
    until(lambda: statuses(tmp_path).count("running") == 3, "each has a trial", alive)
    (first,) = [job["pid"] for job in board(tmp_path)["jobs"] if job["name"].startswith("trial-0")]
    workers[0].kill()
    os.kill(first, signal.SIGKILL)
    gate.touch()
    said = [done(worker) for worker in workers[1:]]
    trials = study(tmp_path).trials
    assert [trial.number for trial in trials] == list(range(9))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    state = board(tmp_path)
    assert state["status"] == "completed" and statuses(tmp_path) == ["completed"] * 9
    assert len({job["name"] for job in state["jobs"]}) == 9
    # One trial was cut off with its worker; whoever found it did it again.
    assert sorted(job["starts"] for job in state["jobs"]) == [*[1] * 8, 2]
    assert all("] started" in text for text in said)


def statuses(cwd: Path) -> list[str]:
    """Of the trials so far; none where the search has not begun."""
    there = (cwd / "search" / "sweep.json").is_file()
    return [job["status"] for job in board(cwd)["jobs"]] if there else []


def test_more_trials_go_on_with_the_same_study(tmp_path: Path) -> None:
    """Though nobody says which folder it is in."""
    words = ["hydra.sweeper.prune=false", "hydra.sweep.dir=outputs/sweeps/${llmexp.sweep:}"]
    for count in (2, 4):
        done(started(tmp_path, f"hydra.sweeper.n_trials={count}", *words))
        (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
        jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
        assert [job["starts"] for job in jobs] == [1] * count
        assert [job["name"].split("_")[0] for job in jobs] == [f"trial-{n}" for n in range(count)]


def test_another_space_needs_another_folder(tmp_path: Path) -> None:
    done(started(tmp_path, "hydra.sweeper.n_trials=1"))
    other = "hydra.sweeper.space={optim.weight_decay: {low: 0.0, high: 0.1}}"
    said = done(started(tmp_path, "hydra.sweeper.n_trials=1", other), code=2)
    assert "was begun with another optim.weight_decay" in said and "Traceback" not in said


def test_a_missing_metric_is_named_and_the_trial_stays_open(tmp_path: Path) -> None:
    goal = "hydra.sweeper.minimize=[val/los]"
    said = done(started(tmp_path, "objective=val/los"), code=2)
    assert "objective: val/los is no metric of llmexp, so say which way it is better" in said
    said = done(started(tmp_path, "hydra.sweeper.n_trials=1", goal), code=1)
    assert "its result has no val/los; it has " in said and "val/loss" in said
    assert [trial.state for trial in study(tmp_path).trials] == [TrialState.RUNNING]


def test_every_end_of_every_range_is_checked_before_the_first_trial(tmp_path: Path) -> None:
    space = "hydra.sweeper.space={data.batch_size: {choices: [8, many]}}"
    said = done(started(tmp_path, space), code=2)
    assert "data.batch_size" in said and "many" in said
    assert not (tmp_path / "search").exists()


def test_half_a_line_and_a_lock_of_a_killed_search_are_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "study.journal"
    file.write_bytes(b'{"op": 1}\n{"op": 2}\n{"op"')
    (tmp_path / "study.journal.lock").symlink_to("nowhere")
    assert repaired(file).read_bytes() == b'{"op": 1}\n{"op": 2}\n'
    assert not (tmp_path / "study.journal.lock").is_symlink()


def test_ranges_are_plain_and_wrong_ones_say_why() -> None:
    rate = Range(low=1e-5, high=1e-2, log=True)
    assert rate.ends() == ["1e-05", "0.01"] and not rate.whole and rate.complaint() is None
    rank = Range(low=2, high=64)
    assert rank.ends() == ["2", "64"] and rank.whole
    assert Choice(choices=[True, None, 8, "lora"]).ends() == ["true", "null", "8", "lora"]
    assert "above high" in str(Range(low=2, high=1).complaint())
    assert "above 0" in str(Range(low=0, high=1, log=True).complaint())
    nested = {"optim": {"learning_rate": {"low": 1}}, "strategy.rank": {"choices": [1]}}
    assert [key for key, _ in leaves(nested)] == ["optim.learning_rate", "strategy.rank"]
    found = probes({"a": rank, "b": Choice(choices=["x", "y", "z"])})
    assert found == [{"a": "2", "b": "x"}, {"a": "64", "b": "y"}, {"a": "64", "b": "z"}]
