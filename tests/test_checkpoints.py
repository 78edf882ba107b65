"""A checkpoint is on the disk whole or not at all, whenever its writer dies and however full it is.

The writers are processes that really die: at a byte of the file by the limit of file sizes, between
two system calls by SIGKILL. Full disks are small file systems in memory, where one may be mounted.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llmexp.checkpoints.durable import DurableCheckpoints, size_of, write
from llmexp.checkpoints.generations import BEST, LAST, PREVIOUS, Generations
from llmexp.errors import NoSpace, UserError
from tests import tiny
from tests.machine import unable
from tests.runs import classified, finished


def checkpoint(step: int, values: int = 3000) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"w": torch.full((values,), float(step))}}


def save(folder: Path, step: int, name: str = LAST, values: int = 3000) -> None:
    DurableCheckpoints().save_checkpoint(checkpoint(step, values), folder / name)


def step_of(path: Path | None) -> int:
    assert path is not None
    found = DurableCheckpoints().load_checkpoint(path)
    step = int(found["global_step"])
    assert torch.equal(found["state_dict"]["w"], torch.full_like(found["state_dict"]["w"], step))
    return step


def dies(work: Callable[[], None]) -> int:
    """The signal that ended a child which did `work`; 0 where it came to its end."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def limited(work: Callable[[], None], size: int) -> Callable[[], None]:
    """`work` in a process that the kernel ends when a file of it grows beyond `size`."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        work()

    return limit


def killed(work: Callable[[], None], moment: int) -> Callable[[], None]:
    """`work` in a process that kills itself at its `moment`-th opening or renaming of a file."""

    def watch() -> None:
        left = [moment]

        def count(event: str, arguments: Any) -> None:
            if event in ("open", "os.rename", "os.remove", "os.listdir"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()

    return watch


def test_a_writer_that_dies_after_k_bytes_leaves_the_generation_before(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    whole = (tmp_path / LAST).stat().st_size
    for size in [0, 1, 63, 64, 65, *range(100, whole, whole // 40), whole - 1]:
        assert dies(limited(lambda: save(tmp_path, 3), size)) == signal.SIGXFSZ
        path, notes = Generations(tmp_path).newest()
        assert (step_of(path), notes) == (2, [])
        assert step_of(tmp_path / PREVIOUS) == 1
    save(tmp_path, 3)
    assert step_of(tmp_path / LAST) == 3 and step_of(tmp_path / PREVIOUS) == 2
    assert not list(tmp_path.glob("*unfinished"))


def test_a_writer_killed_between_any_two_calls_leaves_one_that_is_whole(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    found, moment = 2, 0
    while dies(killed(partial(save, tmp_path, found + 1), moment)):
        moment += 1
        path, _ = Generations(tmp_path).newest()
        assert step_of(path) in (found, found + 1)
        found = step_of(path)
        assert moment < 200
    assert moment > 8
    assert step_of(Generations(tmp_path).newest()[0]) == found + 1


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "gone"])
def test_a_bad_newest_one_falls_back_and_says_so(harm: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / LAST
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    harmed = {"cut": bytes(data[:-7]), "flip": bytes(data), "empty": b""}
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(harmed[harm])
    newest, notes = Generations(tmp_path).to_resume()
    assert newest == tmp_path / PREVIOUS and step_of(newest) == 1
    assert notes == ([] if harm == "gone" else ["checkpoints/last.ckpt is not whole"])
    # The next one must not push the whole one out for the harmed one, which is kept beside it.
    Generations(tmp_path).set_aside()
    assert (tmp_path / "last.ckpt.bad").is_file() == (harm != "gone")
    save(tmp_path, 3)
    assert step_of(tmp_path / LAST) == 3 and step_of(tmp_path / PREVIOUS) == 1


def test_the_best_one_is_not_read_where_it_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are there already; test_resume_inputs.py has the other case."""
    asked: list[str] = []
    whole = Generations.is_whole
    monkeypatch.setattr(
        Generations, "is_whole", lambda self, path: asked.append(path.name) or whole(self, path)
    )
    where = [*classified(tmp_path), "model=local", f"model.path={tiny.bert(tmp_path / 'bert')}"]
    more = ["strategy=head_only", "trainer.max_epochs=1"]
    result = finished(tmp_path / "run", *where, *more)
    assert (tmp_path / "run" / "checkpoints" / BEST).is_file()
    assert result["metrics"]["val/loss"] > 0 and BEST not in asked


def test_without_a_manifest_nothing_is_trusted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "manifest.json").write_text("{")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert Generations(tmp_path).newest()[0] is None
    with pytest.raises(UserError, match=r"nothing to go on from.*begin anew.*run.dir") as told:
        Generations(tmp_path).to_resume()
    assert "checkpoints/last.ckpt is not whole and checkpoints/previous" in str(told.value)
    Generations(tmp_path).set_aside()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert Generations(tmp_path / "none").to_resume() == (None, [])


def test_the_size_is_known_before_the_file_is_written(tmp_path: Path) -> None:
    shared = torch.zeros(5000)
    holds = {"global_step": 0, "a": shared, "b": [shared[:10], {"c": shared}], "d": torch.ones(99)}
    DurableCheckpoints().save_checkpoint(holds, tmp_path / LAST)
    assert 0 <= size_of(holds) - (tmp_path / LAST).stat().st_size < 1 << 16


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        unable("no small file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_the_previous_one_and_nothing_else(tmp_path: Path) -> None:
    """12 MB hold three of 3 MB: the fourth makes room, and where none is left it says so."""
    values = 3 * 2**18
    with small_disk(tmp_path / "disk", 12) as disk:
        save(disk, 1, BEST, values)
        save(disk, 2, LAST, values)
        save(disk, 3, LAST, values)
        assert step_of(disk / PREVIOUS) == 2
        save(disk, 4, LAST, values)
        assert step_of(disk / LAST) == 4 and step_of(disk / BEST) == 1
        with (disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
            while True:
                other.write(bytes(4096))
        with pytest.raises(NoSpace, match=r"last.ckpt needs 3\.\d MB and \d\.\d MB are free"):
            save(disk, 5, LAST, values)
        path, notes = Generations(disk).newest()
        assert (step_of(path), notes) == (4, []) and step_of(disk / BEST) == 1
        assert not list(disk.glob("*unfinished"))


def test_a_disk_that_fills_while_it_is_written_to(tmp_path: Path) -> None:
    """Free space was there when it was asked for: the previous one goes, then it is tried again."""
    values = 3 * 2**18

    def tried(disk: Path) -> list[int]:
        """Save a checkpoint that turns out larger than was thought; the bytes free at each try."""
        free: list[int] = []

        def larger(file: Any) -> None:
            free.append(Generations(disk).free())
            write(checkpoint(5, values), file)

        Generations(disk).write(LAST, larger, 0, 5)
        return free

    with small_disk(tmp_path / "disk", 8) as disk:
        save(disk, 1, LAST, values)
        save(disk, 2, LAST, values)
        first, second = tried(disk)
        assert second > first + 2**21
        assert step_of(Generations(disk).newest()[0]) == 5
