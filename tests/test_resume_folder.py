"""Whose run folder it is: one writer, one config, one number of processes, done when it is done."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmexp.checkpoints.generations import Generations
from llmexp.jobs.changes import differences, is_harmless
from llmexp.jobs.lock import FolderLock
from tests.test_checkpoints import small_disk
from tests.test_distributed import TWO
from tests.test_resume import (  # noqa: F401  (models is a fixture)
    KILL,
    ROOT,
    Case,
    command,
    left,
    models,
    overrides,
    peaceful,
)
from tests.test_resume_loops import assert_equal

CASE = Case("lora", "classification", False, 1, 0, "mid-epoch")
Killed = tuple[list[str], Path]


@pytest.fixture(scope="module")
def killed(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Killed:  # noqa: F811
    """A run that was killed after its second checkpoint, and its overrides."""
    folder = tmp_path_factory.mktemp("killed")
    lines = overrides(CASE, folder, models)
    killer = "{_target_: mylab.killer.Killer, lives: %s, deaths: [[batch_end, 5, 9]]}"
    lines.append("+callbacks.killer=" + killer % (folder / "lives"))
    assert command(["run.py", *lines, f"hydra.run.dir={folder / 'run'}"]).returncode == -KILL
    return lines, folder / "run"


@pytest.fixture(scope="module")
def whole(killed: Killed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, which nobody killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    peaceful([*killed[0]], folder)
    return folder


@pytest.fixture
def run(killed: Killed, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed[1], tmp_path / "run"))


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def test_a_changed_config_is_refused_and_told(killed: Killed, run: Path) -> None:
    before = files(run)
    again = [*killed[0], "resume=auto", f"hydra.run.dir={run}"]
    done = command(["run.py", *again, "optim.learning_rate=5e-3", "data.num_workers=1", "seed=4"])
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if "begun with another config" in line]
    assert len(told) == 1 and "Traceback" not in done.stderr
    assert "optim.learning_rate: 0.002 -> 0.005; seed: 0 -> 4" in told[0]
    assert "resume: data.num_workers: 0 -> 1, which changes no result" in done.stdout
    assert files(run) == before


def test_harmless_keys_are_told_and_pass(killed: Killed, run: Path, whole: Path) -> None:
    """And are harmless: the run ends with the bits of one that never had them."""
    again = [*killed[0], "resume=auto", f"hydra.run.dir={run}", "data.num_workers=2"]
    done = command(["run.py", *again])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resume: data.num_workers: 0 -> 2, which changes no result" in done.stdout
    assert_equal(left(whole), left(run))
    once = files(run)
    done = command(["-m", "llmexp", "resume", str(run)])
    assert done.returncode == 0 and "is completed: there is nothing to resume" in done.stdout
    done = command(["run.py", *again, "seed=1"])
    assert done.returncode == 2 and "seed: 0 -> 1" in done.stderr
    assert files(run) == {**once, "config.yaml": files(run)["config.yaml"]}


def test_a_bad_newest_checkpoint_falls_back_and_ends_the_same(
    killed: Killed,
    run: Path,
    whole: Path,
    tmp_path: Path,
) -> None:
    """And where there is none, from the start; where none is whole, it does not begin anew."""
    none = Path(shutil.copytree(run, tmp_path / "none"))
    harmed = Path(shutil.copytree(run, tmp_path / "harmed"))
    (run / "checkpoints" / "last.ckpt").write_bytes(b"half of it")
    shutil.rmtree(none / "checkpoints")
    done = command(["-m", "llmexp", "resume", str(run)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checkpoints/last.ckpt is not whole: going on from checkpoints/previous" in done.stdout
    assert (run / "checkpoints" / "last.ckpt.bad").read_bytes() == b"half of it"
    assert command(["-m", "llmexp", "resume", str(none)]).returncode == 0
    assert_equal(left(whole), left(run))
    assert_equal(left(whole), left(none))
    (harmed / "checkpoints" / "manifest.json").write_text("{")
    before = files(harmed / "checkpoints")
    done = command(["-m", "llmexp", "resume", str(harmed)])
    assert done.returncode == 2 and "so there is nothing to go on from" in done.stderr
    assert files(harmed / "checkpoints") == before


def test_a_second_writer_is_refused_in_one_sentence(killed: Killed, run: Path) -> None:
    before = files(run)
    again = ["run.py", *killed[0], "resume=auto", f"hydra.run.dir={run}"]
    with FolderLock(run):
        for words in (
            again,
            ["-m", "llmexp", "resume", str(run)],
            ["-m", "llmexp", "job", str(run)],
        ):
            done = command(words)
            assert done.returncode == 2
            assert done.stderr.count("\n") == 1 and "is being written by process" in done.stderr
    assert files(run) == before


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    source = "import sys, time; from pathlib import Path; from llmexp.jobs.lock import FolderLock\n"
    source += "with FolderLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith("process ")


def test_what_a_difference_is() -> None:
    before = {"a": {"b": 1, "c": None}, "tags": [], "tracking": {"x": 1}}
    now = {"a": {"b": 1.5}, "tags": ["t"], "tracking": {"y": {"z": 2}}}
    found = differences(before, now)
    assert found["a.b"] == "1 -> 1.5" and found["a.c"] == "null -> (not there)"
    assert {key for key in found if not is_harmless(key)} == {"a.b", "a.c"}
    assert differences(now, json.loads(json.dumps(now))) == {}


@pytest.mark.long
def test_two_processes_resume_as_two_and_never_as_one(
    models: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    two = [*overrides(CASE, tmp_path, models), "hardware=ddp", *TWO]
    peaceful(two, tmp_path / "whole")
    killer = "{_target_: mylab.killer.Killer, lives: %s, deaths: [[batch_end, 3, 9]]}"
    lines = [*two, "+callbacks.killer=" + killer % (tmp_path / "lives")]
    folder = tmp_path / "two"
    assert command(["run.py", *lines, f"hydra.run.dir={folder}"]).returncode != 0
    config = (folder / "config.yaml").read_text()
    one = config.replace("devices: 2", "devices: 1")
    assert one != config
    (folder / "config.yaml").write_text(one)
    done = command(["-m", "llmexp", "resume", str(folder)])
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    assert "was trained by 2 processes and would go on with 1" in done.stderr
    (folder / "config.yaml").write_text(config)
    done = command(["-m", "llmexp", "resume", str(folder)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal(left(tmp_path / "whole"), left(folder))


@pytest.mark.long
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
    models: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    """The first checkpoint fits, the next does not: exit 1, the first is whole; then the rest."""
    case = Case("full_finetune", "classification", False, 1, 0, "mid-epoch")
    lines = overrides(case, tmp_path, models)
    peaceful(lines, tmp_path / "whole")
    size = (tmp_path / "whole" / "checkpoints" / "last.ckpt").stat().st_size
    with small_disk(tmp_path / "disk", 2 + size // 2**20) as disk:
        folder = disk / "run"
        done = command(["run.py", *lines, f"hydra.run.dir={folder}"])
        assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
        result = json.loads((folder / "result.json").read_text())
        assert result["status"] == "failed"
        assert re.match(r"the disk is full: .* needs .* MB and .* MB are free", result["reason"])
        assert Generations(folder / "checkpoints").newest() == (
            folder / "checkpoints" / "last.ckpt",
            [],
        )
        subprocess.run(["mount", "-o", "remount,size=90m", str(disk)], check=True)
        done = command(["-m", "llmexp", "resume", str(folder)])
        assert done.returncode == 0, done.stdout + done.stderr
        assert_equal(left(tmp_path / "whole"), left(folder))
