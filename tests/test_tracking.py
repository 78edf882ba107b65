"""Trackers see what `result.json` holds, and a run never depends on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmexp.secrets import masked
from llmexp.tracking.wandb import summary
from tests.test_distributed import ROOT, TWO, inputs, run  # noqa: F401  (a fixture)

COMMON = ["strategy=head_only", "data.batch_size=8", "trainer.log_every_n_steps=1"]


def offline(folder: Path) -> dict[str, Any]:
    """The one W&B run in a folder, read back from its file: run, config, summary and history."""
    files = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 1
    found: dict[str, Any] = {"run": {}, "history": []}
    for line in inspected(files[0]).splitlines():
        record = json.loads(line)
        if record["type"] == "run":
            found["run"] |= record["run"]
            found["config"] = record["run"]["config"]["update"]
        elif record["type"] == "history":
            found["history"].append(record["history"]["item"])
    return found | {"summary": json.loads(inspected(files[0], "--summary"))["summary"]}


def inspected(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def tracked(inputs: list[str]) -> list[str]:  # noqa: F811
    return [o for o in inputs if not o.startswith("tracking=")]


@pytest.fixture(autouse=True)
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no.netrc"))


def test_an_offline_wandb_run_holds_what_the_result_holds(
    tracked: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    result = run(folder, *tracked, *COMMON, "tags=[first]")
    found = offline(folder)
    for key, value in summary(result).items():
        assert found["summary"][key] == pytest.approx(value), key
    assert set(result["metrics"]) <= set(found["summary"])
    assert found["summary"]["test/predictions"]["nrows"] == 17
    assert found["summary"]["test/confusion_matrix_table"]["nrows"] == 9
    told = found["run"]
    assert found["config"]["optim"]["learning_rate"] == 1e-3
    assert told["job_type"] == "head_only" and "run_group" not in told
    assert {"first", "head_only", "local", "classification"} == set(told["tags"])
    for key in ("learning_rate", "tokens_per_second", "gradient_norm", "memory_mb", "loss"):
        assert sum(f"train/{key}" in row for row in found["history"]) == 6, key


@pytest.mark.long
def test_each_job_of_a_sweep_is_one_run_in_one_group(tracked: list[str], tmp_path: Path) -> None:
    """Two processes for each job; folders == jobs == W&B runs (Lightning #11300)."""
    sweep = tmp_path / "sweep"
    overrides = [*tracked, "strategy=head_only", "hardware=ddp", *TWO, "seed=0,1"]
    done = subprocess.run(
        [sys.executable, "run.py", "-m", *overrides, f"hydra.sweep.dir={sweep}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert len(jobs) == 2
    for seed, folder in enumerate(jobs):
        assert json.loads((folder / "result.json").read_text())["seed"] == seed
        assert offline(folder)["run"]["run_group"] == "sweep"
        assert (folder / "console.log").read_text().count("W&B is offline") == 1
    assert len({offline(folder)["run"]["run_id"] for folder in jobs}) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("tracking", "file"),
    [
        ("csv", "csv/metrics.csv"),
        ("tensorboard", "tensorboard/events.*"),
        ("none", "metrics.jsonl"),
    ],
)
def test_the_other_trackers_write_into_the_run_folder(
    tracking: str, file: str, tracked: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    run(folder, *tracked, *COMMON, f"tracking={tracking}")
    found = list(folder.glob(file))
    assert found and all(path.stat().st_size > 0 for path in found)
    assert not (folder / "wandb").exists()
    if tracking == "csv":
        columns = found[0].read_text().splitlines()[0].split(",")
        assert {"train/loss", "val/loss", "test/accuracy"} <= set(columns)


def test_required_tracking_without_a_key_is_refused_at_once(
    tracked: list[str], tmp_path: Path
) -> None:
    overrides = [*tracked, *COMMON, "tracking.required=true", f"hydra.run.dir={tmp_path / 'a'}"]
    done = subprocess.run(
        [sys.executable, "run.py", *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "tracking.required" in done.stderr and "not logged in" in done.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.long
def test_an_unreachable_server_costs_seconds_and_one_line(
    tracked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key and a host where nobody listens: offline, said once, the run completes."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    folder = tmp_path / "a"
    assert run(folder, *tracked, *COMMON)["status"] == "completed"
    assert offline(folder)["summary"]["status"] == "completed"


def test_secrets_are_masked_by_name_and_by_shape() -> None:
    tree = {
        "hub_token": "abc",
        "tokenizer": "char",
        "max_new_tokens": 8,
        "nested": [{"API_KEY": "x", "note": "use hf_abcdefghijklmnopqrstuv here"}],
    }
    assert masked(tree) == {
        "hub_token": "***",
        "tokenizer": "char",
        "max_new_tokens": 8,
        "nested": [{"API_KEY": "***", "note": "use *** here"}],
    }
