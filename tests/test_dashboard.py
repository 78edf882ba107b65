"""`scripts/dashboard.py` shows keys that runs record, and builds what W&B can take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmexp.jobs.job import read_config
from llmexp.tracking.base import numbers
from tests import runs, tiny

pytest.importorskip("wandb_workspaces")

ROOT = Path(__file__).parents[1]


def dashboard(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_API_KEY"}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "dashboard.py"), *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"PYTHONPATH": str(ROOT), "NETRC": str(tmp_path / "none")},
    )


def test_a_dry_run_says_what_would_be_made(tmp_path: Path) -> None:
    """Every key of a panel is one that a run records, so no panel stays empty."""
    done = dashboard(tmp_path, "--dry-run", "--project", "mine")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    made = said["workspace"]["sections"]
    assert said["report"]["sections"] == made and said["workspace"]["project"] == "mine"
    kinds = {name: {panel["panel"] for panel in panels} for name, panels in made.items()}
    assert "ScatterPlot" in kinds["Quality against cost"]
    assert kinds["Curves, by strategy"] == {"LinePlot"}
    assert "ParallelCoordinatesPlot" in kinds["Sweeps"]
    keys = {key for panels in made.values() for panel in panels for key in panel["keys"]}
    known = recorded(tmp_path) | {"trainer/global_step", "test/predictions", "val/samples"}
    assert keys <= known
    assert {"config.choices.strategy", "config.strategy.rank"} <= keys


def recorded(tmp_path: Path) -> set[str]:
    """The keys of one run of LoRA: its curves, the numbers of its result, its config."""
    given = ["model=local", f"model.path={tiny.bert(tmp_path / 'bert', labels=3)}"]
    data = runs.classified(tmp_path / "data")
    more = ["strategy=lora", "trainer.log_every_n_steps=1"]
    result = runs.finished(tmp_path / "run", *given, *data, *more)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    told = {key for line in lines for key in json.loads(line)} | set(numbers(result))
    return told | set(leaves(read_config(tmp_path / "run")[0], "config"))


def leaves(tree: Any, place: str) -> Iterator[str]:
    """The dotted names of a config's values, as W&B shows them."""
    if not isinstance(tree, dict):
        yield place
        return
    for key, value in tree.items():
        yield from leaves(value, f"{place}.{key}")


def test_what_is_built_can_be_sent() -> None:
    """The libraries' own translation takes every panel of the workspace and of the report."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import dashboard as script
    finally:
        sys.path.pop(0)
    board: Any = script.workspace("me", "mine", "test/accuracy")
    sent = board._to_model().model_dump_json(by_alias=True)
    assert "cost/total_seconds" in sent and "choices.value.strategy" in sent
    for panels in script.sections("test/loss").values():
        for panel in panels:
            assert panel._to_model().model_dump_json(by_alias=True)


def test_without_a_login_it_says_so(tmp_path: Path) -> None:
    done = dashboard(tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "wandb login" in done.stderr and len(done.stderr.splitlines()) == 1
