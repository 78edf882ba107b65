"""YAML from a stranger: none of `tests/hostile/configs.yaml` runs, each is one sentence."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from llmexp import cli
from llmexp.cli import report
from llmexp.configure import roots
from llmexp.configure.compose import compose_jobs, open_keys, opened_for
from llmexp.configure.judge import judged
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
    "a page by the environment",
    "a page by the clock",
    "jobs in a folder of theirs",
    "a log's stream that is made up later",
)
# What Hydra would make an object of by itself, as against what the experiment's own classes judge.
HYDRAS = [case for case in CORPUS if re.match(r"(conf: )?(hydra\.|experiment/)", case["says"])]


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
    lines = trap.set(named(name))
    done = command(trap, tmp_path / "work", *lines)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("llmexp: ")
    assert len(done.stderr.splitlines()) == 1 or not named(name).get("one", True)
    assert not any((tmp_path / "work").iterdir())
    trap.assert_untouched()


def named(name: str) -> dict[str, Any]:
    (case,) = (case for case in CORPUS if case["name"] == name)
    return case


def command(trap: Trap, work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`run.py` with the attacker's folder of YAML, from a folder of its own."""
    work.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{trap.folder}:{ROOT}", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(ROOT / "run.py"), "--config-dir", str(trap.folder), *words]
    return subprocess.run(line, cwd=work, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["a log's formatter", "a hydra callback that is imported"])
@pytest.mark.parametrize(
    "options", [["--help"], ["--hydra-help"], ["--cfg", "all"], ["--info"], ["-sc", "query=bash"]]
)
def test_what_is_only_shown_does_not_run_either(
    options: list[str], name: str, trap: Trap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = trap.set(named(name))
    monkeypatch.setenv("COMP_LINE", f"python run.py {' '.join(lines)} ")
    done = command(trap, tmp_path / "work", *options, *lines)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in ((0, 2) if options[0] in ("--help", "-sc") else (2,))
    assert not any((tmp_path / "work").iterdir())
    trap.assert_untouched()


def test_a_pickle_is_not_run_again(trap: Trap, tmp_path: Path) -> None:
    """Hydra's own way to repeat a run loads whatever the file holds."""

    class Theirs:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {trap.canary}",)

    (trap.folder / "config.pickle").write_bytes(pickle.dumps(Theirs()))
    file = str(trap.folder / "config.pickle")
    done = command(trap, tmp_path / "work", "--experimental-rerun", file)
    assert done.returncode == 2
    assert done.stderr == (
        "llmexp: --experimental-rerun is not supported; llmexp resume FOLDER goes on with a run\n"
    )
    trap.assert_untouched()


@pytest.mark.parametrize("case", HYDRAS, ids=lambda case: case["name"])
def test_whatever_hydra_composes_is_judged(case: dict[str, Any], trap: Trap) -> None:
    """Not only what was composed to be looked at: also what Hydra composes for itself."""
    lines = open_keys(trap.set(case))
    mode = RunMode.MULTIRUN if case.get("sweep") else RunMode.RUN
    with opened_for(lines, str(trap.folder)) as (hydra, asked), pytest.raises(UserError):
        hydra.compose_config("run", asked, mode)
    trap.assert_untouched()


def test_a_file_that_changes_after_it_was_looked_at_is_looked_at_again(trap: Trap) -> None:
    file = trap.folder / "experiment" / "bad.yaml"
    file.parent.mkdir()
    harmless = "# @package _global_\nhydra: {callbacks: {}}\n"
    file.write_text(harmless)
    lines = ["+experiment=bad", "tracking=none", "hydra.mode=RUN"]
    compose_jobs(open_keys(lines), "run", str(trap.folder), False)
    with opened_for(open_keys(lines), str(trap.folder)) as (hydra, asked):
        master = hydra.compose_config("run", asked, RunMode.RUN)
        hostile = "# @package _global_\nhydra: {callbacks: {x: {_target_: evil.Callback}}}\n"
        file.write_text(hostile)
        with pytest.raises(UserError, match=r"hydra\.callbacks\.x\._target_"):
            hydra.run("run", lambda cfg: None, asked)
        with pytest.raises(UserError, match=r"hydra\.callbacks\.x\._target_"):
            hydra.config_loader.load_sweep_config(master, ["experiment=bad", "seed=1"])
    trap.assert_untouched()


def test_a_config_is_judged_and_run_at_the_same_moment(trap: Trap) -> None:
    """What changes from one look to the next is looked at once."""
    (trap.folder / "experiment").mkdir()
    (trap.folder / "experiment" / "now.yaml").write_text(
        "# @package _global_\nname: at_${now:%f}\ntags: ['${now:%f}']\n"
    )
    seen: list[Any] = []

    def judge(cfg: Any, *rest: Any) -> Any:
        made = judged(cfg, *rest)
        seen.append((made.tree["name"], made.tree["tags"], OmegaConf.select(cfg, "hydra.run.dir")))
        return made

    with opened_for(open_keys(["+experiment=now"]), str(trap.folder)) as (hydra, asked):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llmexp.configure.loader.judged", judge)
            cfg = hydra.compose_config("run", asked, RunMode.RUN)
        HydraConfig.instance().set_config(cfg)
        place = OmegaConf.select(cfg, "hydra.run.dir")
        assert seen == [(cfg.name, list(cfg.tags), place)]


def test_a_job_imports_what_the_command_would_and_nothing_from_where_it_stands(
    tmp_path: Path,
) -> None:
    """Python looks for modules in the folder one stands in: a run is the command's own."""
    for name in ("llmexp", "torch", "yaml"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    (tmp_path / "rows.csv").write_text("text,label\none,a\ntwo,a\nthree,a\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = ["tracking=none", "data=classification", "data.train=rows.csv"]
    line = [sys.executable, str(ROOT / "run.py"), *words]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("llmexp: data."), done.stderr
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("command", ["resume", "job"])
def test_a_run_of_somebody_elses_writes_only_where_one_of_ours_may(
    command: str, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recorded config was never judged as YAML: it may say any folder."""
    (composed,) = compose_jobs(["tracking=none"], "run", None, False)
    monkeypatch.chdir(trap.folder)
    theirs = {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "dirpath": "/etc/theirs"}
    tree = {**composed.tree, "callbacks": {"x": theirs}}
    (trap.folder / "config.yaml").write_text(OmegaConf.to_yaml(tree))
    before = sorted(trap.folder.iterdir())
    with pytest.raises(UserError, match=r"callbacks\.x\.dirpath: /etc/theirs lies outside the run"):
        cli.main([command, str(trap.folder)])
    assert sorted(trap.folder.iterdir()) == before
    monkeypatch.setenv("LLMEXP_ROOT", "/var:/etc")
    assert roots.of_run(tree, trap.folder) == []


@pytest.mark.parametrize(
    "place", ["file:///var/tmp/x", "local:///x", "s3://theirs/x", "memory://x", "a::file:///x"]
)
def test_a_run_of_somebody_elses_writes_to_no_address(place: str, tmp_path: Path) -> None:
    """Read as a path it would be a folder of a strange name here; fsspec reads it otherwise."""
    profiler = {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "dirpath": place}
    (said,) = roots.of_run({"trainer": {"profiler": profiler}}, tmp_path)
    assert f"trainer.profiler.dirpath: {place} lies outside the run" in said
    assert "LLMEXP_ROOT" not in said
