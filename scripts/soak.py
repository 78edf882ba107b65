"""Kill one training run at random moments until it is through, and compare it with a quiet one.

    python scripts/soak.py                    # a hundred kills
    python scripts/soak.py --kills 15 --seed 3

A tiny network trains on made-up rows. SIGKILL comes at steps that are drawn evenly from the whole
run, within a tenth of a second of each, wherever the run is then: training, validating, saving; one
life in four ends at a random time while it starts, at the latest where it trains. Every life after
the first is `llmexp resume`. In the end weights, optimizer, schedule, random numbers,
history, predictions and metrics must be the same bits. Exit code 0 if they are, 1 if not, and 2
where a life ended by itself or did not come to its step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import torch

ROOT = Path(__file__).resolve().parents[1]
CLOCKED = ("time", "train/tokens_per_second", "train/memory_mb")
KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "resume", "global_step", "epoch")


def settings(cache: Path, steps: int) -> list[str]:
    return [
        "strategy=full_finetune",
        "debug=smoke",
        "hardware=cpu",
        "model.dropout=0.1",
        f"cache.dir={cache}",
        f"trainer.max_steps={steps}",
        "trainer.max_epochs=-1",
        "trainer.limit_train_batches=null",
        "trainer.accumulate_grad_batches=2",
        "trainer.val_check_interval=1",
        "trainer.check_val_every_n_epoch=5",
        "trainer.log_every_n_steps=1",
        "callbacks.checkpoint.every_n_train_steps=7",
        "data.num_workers=2",
    ]


# Targets end so many steps before the run does: it goes on while somebody looks and kills.
MARGIN = 100
# Seconds.
PATIENCE, LONGEST_START = 600.0, 8.0


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def finished(words: list[str], log: Path) -> None:
    code = start(words, log).wait()
    if code:
        give_up(f"ended with {code}", log)


def give_up(why: str, log: Path) -> NoReturn:
    print(f"{why}:\n{log.read_text(errors='replace')[-3000:]}", flush=True)
    sys.exit(2)


def drawn(kills: int, steps: int, draw: random.Random) -> list[int | None]:
    """At which step each life is killed, rising; None: at a time after its start."""
    early = [draw.random() < 0.25 for _ in range(kills)]
    targets = iter(sorted(draw.randint(1, steps - MARGIN) for soon in early if not soon))
    return [None if soon else next(targets) for soon in early]


def haunt(words: list[str], folder: Path, targets: list[int | None], draw: random.Random) -> None:
    """Kill the run at each of the targets, then let it end."""
    log = folder.with_suffix(".log")
    again = ["-m", "llmexp", "resume", str(folder)]
    for number, target in enumerate(targets, 1):
        begun = (folder / "config.yaml").is_file()
        child = start(again if begun else words, log)
        if target is None:
            comes_to(child, folder, 0, draw.uniform(0.0, LONGEST_START))
        else:
            if not comes_to(child, folder, target, PATIENCE):
                child.kill()
                give_up(f"not at step {target} within {PATIENCE:.0f} s", log)
            time.sleep(draw.uniform(0.0, 0.1))
        if child.poll() is not None:
            give_up(f"a life ended with {child.returncode} before kill {number}", log)
        child.kill()
        child.wait()
        meant = "while it starts" if target is None else f"at step {target}"
        print(f"kill {number:3d} {meant}: the history ends at {step(folder)}", flush=True)
    finished(again, log)


def comes_to(child: subprocess.Popen[bytes], folder: Path, target: int, seconds: float) -> bool:
    """Wait until this life writes to the history at the step, or ended; whether within the time."""
    path, born = folder / "metrics.jsonl", time.time()
    deadline = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < deadline:
        if path.is_file() and path.stat().st_mtime > born and step(folder) >= target:
            return True
        time.sleep(0.01)
    return child.poll() is not None


def step(folder: Path) -> int:
    """The last whole line's step in the history."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().split(b"\n")[1:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def left(folder: Path) -> dict[str, Any]:
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "last": {name: last[name] for name in KEPT},
        "best": best["state_dict"],
        "history": [{k: v for k, v in line.items() if k not in CLOCKED} for line in history],
        "predictions": (folder / "predictions.jsonl").read_text(),
        "metrics": json.loads((folder / "result.json").read_text())["metrics"],
        "model": {p.name: p.read_bytes() for p in (folder / "model").glob("*.safetensors")},
    }


def different(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two nested values are not the same bits."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in different(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return [d for n, (a, b) in enumerate(pairs) for d in different(a, b, f"{where}[{n}]")]
    return [] if one == other else [where]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    draw = random.Random(given.seed)
    print(f"seed {given.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = ["run.py", *settings(folder / "cache", given.steps)]
        finished([*common, f"hydra.run.dir={folder / 'quiet'}"], folder / "quiet.log")
        print(f"the quiet run took {time.monotonic() - began:.0f} s", flush=True)
        targets = drawn(given.kills, given.steps, draw)
        haunt([*common, f"hydra.run.dir={folder / 'haunted'}"], folder / "haunted", targets, draw)
        found = different(left(folder / "quiet"), left(folder / "haunted"))
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)
    print("not the same: " + ", ".join(found[:20]) if found else f"{given.kills} kills: same bits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
