"""A run folder has one writer, from the moment its config is written to the end of its job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmexp.errors import UserError
from llmexp.jobs.lock import FolderLock
from tests import runs, tiny

ROOT = Path(__file__).parents[1]
# Locks the folder, keeps it, and becomes another program, as `prepare` and the job do; that one
# leaves a forked child behind.
BECOMES = """
import os, sys
from pathlib import Path
from llmexp.jobs.lock import FolderLock
with FolderLock(Path(sys.argv[1])) as lock:
    lock.keep()
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], sys.argv[1]])
"""
SECOND = """
import os, sys, time
from pathlib import Path
from llmexp.jobs.lock import FolderLock
print("became", flush=True)
sys.stdin.readline()
with FolderLock(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    print("entered", flush=True)
    time.sleep(600)
"""


def is_free(folder: Path) -> bool:
    """Asked in a process of its own: what belongs to this one would be given back with it."""
    source = "import sys; from pathlib import Path; from llmexp.jobs.lock import FolderLock\n"
    source += "with FolderLock(Path(sys.argv[1])): pass"
    words = [sys.executable, "-c", source, str(folder)]
    return subprocess.run(words, cwd=ROOT, capture_output=True).returncode == 0


def test_the_lock_outlives_exec_and_not_its_process(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", BECOMES, str(tmp_path), SECOND],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"became\n"
        with pytest.raises(UserError, match=f"is being written by process {holder.pid} on "):
            FolderLock(tmp_path).__enter__()
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == b"entered\n"
        assert not is_free(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        # Its child lives, and has the file open.
        os.killpg(holder.pid, 0)
        assert is_free(tmp_path)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize("resume", ["never", "auto"])
def test_of_eight_at_once_one_writes_and_seven_are_refused(tmp_path: Path, resume: str) -> None:
    """Each with a config of its own: what is written is one's, from its config to its result."""
    model = tiny.bert(tmp_path / "bert", labels=3)
    lines = [*runs.classified(tmp_path), "model=local", f"model.path={model}", "strategy=head_only"]
    lines += ["tracking=none", "hardware=cpu", "trainer.max_epochs=2", "cache.enabled=false"]
    folder = tmp_path / "run"
    words = [sys.executable, "run.py", *lines, f"resume={resume}", f"hydra.run.dir={folder}"]
    started = [
        subprocess.Popen(
            [*words, f"seed={seed}"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(8)
    ]
    said = [process.communicate(timeout=400)[1] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, *[2] * 7], said
    # Who comes so late that the first one is through finds its run.
    through = {"never": "holds a run already", "auto": "was begun with another config"}[resume]
    refusals = ("is being written by", "holds a run already", through)
    for code, text in zip(codes, said, strict=True):
        if code:
            assert text.count("\n") == 1
            assert any(why in text for why in refusals), text
    seed = codes.index(0)
    result = json.loads((folder / "result.json").read_text())
    assert (result["seed"], result["status"]) == (seed, "completed")
    assert f"seed: {seed}\n" in (folder / "config.yaml").read_text()


def test_a_folder_that_is_none_gets_no_lock(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "llmexp", "job", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "is no run folder" in done.stderr
    assert list(tmp_path.iterdir()) == [] and time.monotonic() - began < 200
