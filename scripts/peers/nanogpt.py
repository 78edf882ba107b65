"""nanoGPT's own train.py (Karpathy 2022) on a text, from a clone of it: nanogpt.py WORK.json CLONE

With the flags that its README gives for a CPU, in float32 and with biases, which the shape has.
What is clocked is its loop, by when it prints: from its first evaluation's line to the last line of
an iteration, of which it prints every tenth. The loss is its own estimate, on a hundred batches.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from work import Clock, Work, given

EVERY = 10


def prepare(here: Path, work: Work) -> None:
    """Its data as it keeps it, and its programs beside: it reads both where it is started."""
    texts = {"train": work.train, "val": work.test}
    read = {name: Path(path).read_text(encoding="utf-8") for name, path in texts.items()}
    letters = {letter: i for i, letter in enumerate(sorted(set("".join(read.values()))))}
    folder = here / "data" / "text"
    folder.mkdir(parents=True)
    for name, text in read.items():
        ids = np.array([letters[letter] for letter in text], dtype=np.uint16)
        ids.tofile(folder / f"{name}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(letters)}))
    for program in ("train.py", "model.py", "configurator.py"):
        shutil.copy(Path(sys.argv[2]) / program, here)


def command(work: Work) -> list[str]:
    settings = {
        **json.loads(work.model),
        "dataset": "text", "device": "cpu", "dtype": "float32", "compile": False, "bias": True,
        "dropout": 0.0, "block_size": work.max_length, "batch_size": work.batch_size,
        "gradient_accumulation_steps": 1, "learning_rate": work.learning_rate, "decay_lr": False,
        "beta2": 0.99, "weight_decay": work.weight_decay, "max_iters": work.steps - 1,
        "log_interval": EVERY, "eval_interval": max(1, work.steps - 1), "eval_iters": 100,
    }  # fmt: skip
    return [sys.executable, "-u", "train.py", *(f"--{k}={v}" for k, v in settings.items())]


def main(work: Work) -> None:
    clock, here = Clock(), Path.cwd()
    prepare(here, work)
    # The last evaluation comes before the last iteration, whose line is not the one that counts.
    last = max(0, (work.steps - 2) // EVERY * EVERY)
    loss = None
    with subprocess.Popen(command(work), stdout=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stdout is not None
        for line in process.stdout:
            evaluated = re.match(r"step (\d+): .* val loss ([\d.]+)", line)
            iteration = re.match(r"iter (\d+):", line)
            if evaluated and evaluated[1] == "0":
                clock.start()
            if iteration and iteration[1] == str(last):
                clock.stop()
            loss = float(evaluated[2]) if evaluated else loss
    if process.returncode:
        sys.exit(process.returncode)
    clock.steps = last + 1
    clock.report(tokens=clock.steps * work.batch_size * work.max_length, loss=loss)


main(given())
