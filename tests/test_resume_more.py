"""More ways for a run to die and go on: by the same words, as two processes, amid W&B's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmexp.checkpoints.generations import LAST
from llmexp.tracking.wandb import run_id
from tests.test_distributed import TWO
from tests.test_resume import KILL, Case, command, left, overrides, peaceful
from tests.test_resume import models as models
from tests.test_resume_loops import assert_equal


def doomed(lines: list[str], folder: Path, *deaths: tuple[str, int]) -> list[str]:
    """The words of a run whose lives end at these moments, by SIGKILL."""
    told = ", ".join(f"[{hook}, {count}, {KILL}]" for hook, count in deaths)
    lives = folder.with_name(f"{folder.name}.lives")
    killer = f"_target_: mylab.killer.Killer, lives: {lives}, deaths: [{told}]"
    more = ["+callbacks.killer={" + killer + "}", "resume=auto", f"hydra.run.dir={folder}"]
    return ["run.py", *lines, *more]


@pytest.mark.long
def test_the_same_command_typed_again_and_again(models: dict[str, Path], tmp_path: Path) -> None:
    """Not a word is other: the one that begins it, the one after each death, the one that ends."""
    lines = overrides(Case("partial_finetune", "text", True, 2, 2, ""), tmp_path, models)
    peaceful(lines, tmp_path / "whole")
    words = doomed(lines, tmp_path / "killed", ("batch_start", 4), ("validation", 1))
    codes = [command(words).returncode for _ in range(4)]
    # The last one finds the run completed.
    assert codes == [-KILL, -KILL, 0, 0]
    assert_equal(left(tmp_path / "whole"), left(tmp_path / "killed"))


@pytest.mark.long
def test_two_processes_killed_in_a_validation_of_a_head(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """With stored states and accumulation; and once more from the checkpoint before a bad one."""
    case = Case("head_only", "classification", False, 2, 0, "")
    lines = [*overrides(case, tmp_path, models), "hardware=ddp", *TWO, "trainer.max_epochs=4"]
    peaceful(lines, tmp_path / "whole")
    words = doomed(lines, tmp_path / "two", ("validation", 3))
    assert command(words).returncode != 0
    harmed = Path(shutil.copytree(tmp_path / "two", tmp_path / "harmed"))
    (harmed / "checkpoints" / LAST).write_bytes(b"half of it")
    done = command(words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal(left(tmp_path / "whole"), left(tmp_path / "two"))
    done = command(["-m", "llmexp", "resume", str(harmed)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is not whole: going on from checkpoints/previous.ckpt") == 1
    assert_equal(left(tmp_path / "whole"), left(harmed))


def test_an_id_that_was_never_written_is_made_anew(tmp_path: Path) -> None:
    """Killed between making W&B's file and writing it, a run has an empty one."""
    first = run_id(tmp_path)
    assert first and run_id(tmp_path) == first
    (tmp_path / "wandb" / "id").write_text("")
    second = run_id(tmp_path)
    assert second and run_id(tmp_path) == second
