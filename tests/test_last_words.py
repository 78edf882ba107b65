"""`result.json` gets its last word: on a full disk, from any thread, whatever fails on the way."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from llmexp.jobs import results
from llmexp.jobs.outcome import met_full_disk
from llmexp.jobs.signals import Signals
from tests import runs, tiny
from tests.test_checkpoints import small_disk
from tests.test_resume import command


def fill(disk: Path) -> None:
    with (disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
        while True:
            other.write(bytes(4096))


def test_the_last_state_is_written_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        results.reserve(disk)
        results.write_result(disk, {"status": "running"})
        fill(disk)
        with pytest.raises(OSError) as raised:
            results.write_atomic(disk / "provenance.json", "x" * 9000)
        assert results.is_full(raised.value)
        said = "the disk is full " * 200
        results.write_result(disk, {"status": "failed", "reason": said})
        assert results.read_result(disk) == {"status": "failed", "reason": said}
        assert sorted(path.name for path in disk.iterdir()) == ["other", "result.json"]


def test_what_a_full_disk_is_told_from() -> None:
    """Lightning clears up after an error, and its files fail again; Rust has words of its own."""
    full = OSError(28, "No space left on device")
    clearing = ValueError("I/O operation on closed file")
    clearing.__context__ = full
    assert met_full_disk(clearing) and met_full_disk(full)
    assert met_full_disk(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not met_full_disk(OSError(13, "Permission denied"))


@pytest.mark.long
@pytest.mark.parametrize("hook", ["batch_end", "test"])
def test_a_run_on_a_disk_that_fills_ends_in_a_sentence(tmp_path: Path, hook: str) -> None:
    """In its history, and in its answers; with room it goes on to its end."""
    model = tiny.bert(tmp_path / "bert", labels=3)
    lines = [*runs.classified(tmp_path), "model=local", f"model.path={model}", "tracking=none"]
    lines += ["strategy=head_only", "hardware=cpu", f"cache.dir={tmp_path / 'cache'}"]
    lines += ["trainer.max_epochs=2", "trainer.log_every_n_steps=1", "resume=auto"]
    with small_disk(tmp_path / "disk", 8) as disk:
        told = f"_target_: mylab.filler.Filler, hook: {hook}, at: 3, folder: {disk}"
        lines.append("+callbacks.filler={" + told + "}")
        words = ["run.py", *lines, f"hydra.run.dir={disk / 'run'}"]
        done = command(words)
        assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, done.stderr
        result = results.read_result(disk / "run")
        assert result["status"] == "failed"
        assert result["reason"].startswith("the disk is full: "), result["reason"]
        assert "MB are free at" in result["reason"]
        (disk / "other").unlink()
        done = command(words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert results.read_result(disk / "run")["status"] == "completed"
        assert not (disk / "run" / results.ROOM).exists()


def test_threads_write_the_result_at_once(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(12):
                results.write_result(tmp_path, {"number": number, "text": "x" * 5000})
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert json.loads((tmp_path / "result.json").read_text())["number"] in range(4)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_that_gives_up_ends_though_its_last_words_fail() -> None:
    def words(*_: Any) -> None:
        raise FileNotFoundError("result.json")

    pid = os.fork()
    if pid == 0:
        os.close(2)
        with contextlib.suppress(BaseException), Signals() as signals:
            signals.last_words = words
            signals._give_up(15)
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143


def test_a_torn_result_is_none(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"status": "runn')
    assert results.read_result(tmp_path) == {}
    (tmp_path / "result.json").write_text("[]")
    assert results.read_result(tmp_path) == {}
