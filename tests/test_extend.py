"""The promise that extending costs one file is carried out: the files of `tests/extend` run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.errors import UserError
from llmexp.jobs import job
from llmexp.jobs.results import read_result

ROOT = Path(__file__).parents[1]
EXTEND = ROOT / "tests" / "extend"
SMALL = ["trainer.max_epochs=1", "tracking=none", "data.batch_size=4"]
TINY = ["model._target_=llmexp.debug.TinyModel"]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with somebody else's package, YAML and data, and nothing of ours."""
    folder = tmp_path / "lab"
    shutil.copytree(EXTEND, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("LLMEXP_ALLOW", "mylab")
    return folder


def carried_out(lab: Path, *overrides: str) -> dict[str, Any]:
    """The result of a run that is composed with the lab's own folder of YAML."""
    lines = open_keys([*overrides, *SMALL, *TINY, f"model.folder={lab}/tiny"])
    (composed,) = compose_jobs(lines, "run", "conf", False)
    folder = lab / "outputs" / "run"
    folder.mkdir(parents=True, exist_ok=True)
    launch = {"overrides": lines, "sweep": False}
    (folder / job.CONFIG).write_text(OmegaConf.to_yaml({**composed.tree, "launch": launch}))
    assert job.main([str(folder)]) == 0
    return read_result(folder)


def test_a_strategy_is_one_yaml_and_one_short_class(lab: Path) -> None:
    result = carried_out(lab, "strategy=bitfit", "data=moods")
    cost = result["cost"]
    assert 0 < cost["trainable_parameters"] < cost["total_parameters"] / 10
    assert len((lab / "mylab" / "bitfit.py").read_text().splitlines()) <= 60
    with pytest.raises(UserError, match=r"strategy\.nroms: unknown key; did you mean norms\?"):
        carried_out(lab, "strategy=bitfit", "strategy.nroms=true")


def test_a_model_is_one_yaml(lab: Path) -> None:
    result = carried_out(lab, "model=electra_small", "strategy=head_only", "data=moods")
    assert result["model"] == "electra_small"
    assert list(lab.glob("tiny/electra-*"))


def test_a_dataset_is_one_yaml(lab: Path) -> None:
    result = carried_out(lab, "data=moods")
    assert {"train": 6, "val": 3, "test": 3}.items() <= result["examples"].items()
    assert {"test/f1/happy", "test/f1/sad"} <= result["metrics"].keys()


def test_a_task_is_one_class_that_data_names(lab: Path) -> None:
    result = carried_out(lab, "data=stars", "strategy=full_finetune")
    assert 0 <= result["metrics"]["test/stars_off"] <= 2
    assert "test/accuracy" in result["metrics"]


def test_hardware_is_one_yaml(lab: Path) -> None:
    assert carried_out(lab, "hardware=repeatable", "data=moods")["status"] == "completed"


def test_a_package_that_nobody_allowed_is_not_imported(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMEXP_ALLOW")
    (lab / "mylab" / "bitfit.py").write_text("raise SystemExit('imported')")
    sys.modules.pop("mylab.bitfit", None)
    with pytest.raises(UserError, match="LLMEXP_ALLOW=mylab"):
        carried_out(lab, "strategy=bitfit")


def test_all_of_it_at_once_from_the_command_line(lab: Path) -> None:
    words = ["strategy=bitfit", "model=electra_small", "data=stars", "hardware=repeatable"]
    here = [f"model.folder={lab}/tiny", "hydra.run.dir=outputs/mine"]
    command = [sys.executable, str(ROOT / "run.py"), "--config-dir", "conf"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{lab}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *words, *SMALL, *TINY, *here], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "stars_off" in done.stdout
    result = read_result(lab / "outputs" / "mine")
    assert (result["strategy"], result["model"]) == ("bitfit", "electra_small")
