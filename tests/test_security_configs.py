"""YAML from a stranger: none of `tests/hostile/configs.yaml` runs, each is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmexp.cli import report
from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.configure.preflight import build
from llmexp.errors import UserError
from tests.traps import Trap, laid

ROOT = Path(__file__).parents[1]
CORPUS: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "tests/hostile/configs.yaml").read_text(encoding="utf-8")
)
# Through a process of their own, too: one for each way in.
BY_COMMAND = (
    "a hydra callback that is imported",
    "a package to look for YAML in",
    "an environment variable",
    "an experiment",
    "a log's formatter",
    "a callback",
)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    return laid(tmp_path, monkeypatch)


def test_there_are_many() -> None:
    assert len(CORPUS) >= 60
    assert len({case["name"] for case in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
def test_a_hostile_config_is_one_sentence_and_does_not_run(
    case: dict[str, Any], trap: Trap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = trap.set(case)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError) as caught:
        name, sweep = case.get("config_name", "run"), case.get("sweep", False)
        for job in compose_jobs(open_keys(lines), name, str(trap.folder), sweep):
            build(job.tree, job.where)
    said = report(caught.value)
    trap.assert_untouched()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    if case.get("one", True):
        assert len(said.splitlines()) == 1, said
    assert "Traceback" not in said
    at = 0
    for word in case["says"].split():
        assert (at := said.find(word, at)) >= 0, f"{word!r} is not said, or not there: {said}"


@pytest.mark.parametrize("name", BY_COMMAND)
def test_a_hostile_config_exits_with_2_and_leaves_nothing(
    name: str, trap: Trap, tmp_path: Path
) -> None:
    (case,) = (case for case in CORPUS if case["name"] == name)
    lines = trap.set(case)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{trap.folder}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "run.py"), "--config-dir", str(trap.folder), *lines]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("llmexp: ") and len(done.stderr.splitlines()) == 1
    assert not any(work.iterdir())
    trap.assert_untouched()
