"""A folder that holds a run is refused, untouched, unless `resume` says otherwise."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra.core.utils
import pytest
from omegaconf import OmegaConf

from llmexp.configure.compose import compose_jobs
from llmexp.configure.preflight import build
from llmexp.jobs.job import read_config
from llmexp.jobs.record import Record
from tests import runs

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("sweep", [False, True], ids=["run", "sweep"])
def test_a_folder_that_holds_a_run_is_refused_in_a_sentence(sweep: bool, tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "result.json").write_text('{"status": "completed"}\n')
    where = [f"hydra.run.dir={folder}"]
    if sweep:
        where = ["-m", f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=taken"]
    command = [sys.executable, str(ROOT / "run.py"), "tracking=none", *where]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    if sweep:
        # A job of several: it fails, the others run.
        assert done.returncode == 1 and not done.stderr
        assert f"failed: {folder} is no run folder: it has no config.yaml" in done.stdout
    else:
        assert done.returncode == 2
        said = f"llmexp: {folder} holds a run already; say resume=auto to continue it"
        assert done.stderr.startswith(said) and done.stderr.count("\n") == 1
    assert [p.name for p in folder.iterdir()] == ["result.json"]
    assert (folder / "result.json").read_text() == '{"status": "completed"}\n'


@pytest.mark.parametrize("before", [[], ["notes.txt"]], ids=["empty", "in use"])
def test_a_refused_run_takes_away_what_it_made_and_nothing_else(
    before: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in before:
        (folder / name).write_text("keep me")
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\none,a\ntwo,a\nthree,a\n")
    words = ["tracking=none", "data=classification", f"data.train={rows}"]
    command = [sys.executable, str(ROOT / "run.py"), *words, f"hydra.run.dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert folder.exists() == bool(before)
    assert all((folder / name).read_text() == "keep me" for name in before)


def test_a_run_that_cannot_go_on_keeps_its_folder(tmp_path: Path) -> None:
    """It died before its first checkpoint; a note was added, and its data file is gone."""
    folder, rows = tmp_path / "mine", tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "one,a\ntwo,b\n" * 20)
    (composed,) = compose_jobs(
        ["tracking=none", "data=classification", f"data.train={rows}"], "run", None, False
    )
    folder.mkdir()
    launch = {"overrides": [], "sweep": False, "made": True}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({**composed.tree, "launch": launch}))
    (folder / "result.json").write_text('{"status": "running"}')
    (folder / "notes.txt").write_text("keep me")
    rows.unlink()
    command = [sys.executable, "-m", "llmexp", "job", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 2 and "no such file" in done.stderr, done.stderr
    assert (folder / "notes.txt").read_text() == "keep me"
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("launch", [{}, {"made": True}], ids=["nothing", "half of it"])
def test_how_a_run_was_launched_may_be_left_out(launch: dict[str, bool], tmp_path: Path) -> None:
    (composed,) = compose_jobs(["tracking=none"], "run", None, False)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml({**composed.tree, "launch": launch}))
    tree, how = read_config(tmp_path)
    assert how == {"overrides": [], "options": [], "sweep": False}
    assert Record(build(tree), tmp_path).overrides == []


class Frozen(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> Frozen:
        return cls(2024, 2, 29, 12, tzinfo=tz)


def test_eight_runs_that_begin_in_one_second_have_eight_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says `hydra.run.dir`; each is composed and prepared as the command does it."""
    monkeypatch.setattr(hydra.core.utils, "datetime", Frozen)
    monkeypatch.chdir(tmp_path)
    for seed in range(8):
        (composed,) = compose_jobs([f"seed={seed}", "tracking=none"], "run", None, False)
        runs.begun(composed)
    (parent,) = (tmp_path / "outputs").iterdir()
    found = list(parent.iterdir())
    assert {folder.name[:19] for folder in found} == {"2024-02-29_12-00-00"}
    seeds = {OmegaConf.load(folder / "config.yaml").seed for folder in found}
    assert len(found) == 8 and seeds == set(range(8))
    # Four bytes of chance: of eight runs two meet once in 150 million times.
    assert all(re.fullmatch(r".{19}_[0-9a-f]{8}", folder.name) for folder in found)


def test_files_of_somebody_elses_in_the_folder_of_a_run_are_left_alone(tmp_path: Path) -> None:
    """Secrets are hidden in what Hydra writes about the run, and in nothing else."""
    folder = tmp_path / "mine"
    (folder / "deploy").mkdir(parents=True)
    theirs = "db: postgres://me:password@host/db   # hf_0123456789abcdefghij\n"
    others = [folder / "deploy" / "compose.yaml", folder / "mine.yaml", tmp_path / "multirun.yaml"]
    for file in others:
        file.write_text(theirs)
    where = [
        f"hydra.run.dir={folder}",
        "hydra.output_subdir=.hydra",
        "tags=[hf_abcdefghij0123456789]",
    ]
    (folder / "result.json").write_text("{}")
    command = [sys.executable, str(ROOT / "run.py"), "tracking=none", *where]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 2 and "holds a run already" in done.stderr
    assert [file.read_text() for file in others] == [theirs] * 3
    written = [file.read_text() for file in (folder / ".hydra").iterdir()]
    assert len(written) == 3 and not [text for text in written if "hf_abc" in text]
    assert [text for text in written if "tags=[***]" in text]


def test_the_resume_command_finds_the_same_yaml(tmp_path: Path) -> None:
    """As it stands in `result.json`, from the same folder, of a checkout or an installed wheel."""
    own = tmp_path / "my conf" / "experiment"
    own.mkdir(parents=True)
    (tmp_path / "rows.csv").write_text("text,label\none,a\ntwo,a\nthree,a\n")
    page = "# @package _global_\ndefaults: [{override /data: classification}]\nname: mine\n"
    (own / "mine.yaml").write_text(page + "data: {train: rows.csv}\n")
    # A file of the user's keeps the refused run's folder.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("keep me")
    words = ["--config-dir", "my conf", "+experiment=mine", "tracking=none", "hydra.run.dir=run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def ran(command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        return done.stderr

    said = ran([sys.executable, str(ROOT / "run.py"), *words])
    again = json.loads((tmp_path / "run" / "result.json").read_text())["resume_command"]
    python, *rest = shlex.split(again)
    assert python == "python" and rest[:5] == ["-m", "llmexp", "run", "--config-dir", "my conf"]
    assert ran([sys.executable, *rest]) == said
    assert json.loads((tmp_path / "run" / "result.json").read_text())["resume_command"] == again
