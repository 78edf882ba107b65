"""Kill one training run at random moments until it is through, and compare it with a quiet one.

    python scripts/soak.py --kills 100 --steps 9000    # half an hour on two quiet cores
    python scripts/soak.py --kills 15 --seed 3

A tiny network trains on made-up rows. SIGKILL comes after a random time of a few seconds, counted
from the start of the process (one life in four) or from its first sign of training, wherever the
run is then: starting, training, validating, saving, testing. Every life after the first is
`llmexp resume`. In the end weights, optimizer, schedule, random numbers, history, predictions and
metrics must be the same bits. Exit code 0 if they are.
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
from typing import Any

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


def start(words: list[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(child: subprocess.Popen[bytes]) -> None:
    said = child.communicate()[0].decode(errors="replace")
    if child.returncode:
        sys.exit(f"ended with {child.returncode}:\n{said}")


def haunt(words: list[str], folder: Path, kills: int, draw: random.Random, longest: float) -> None:
    """Kill the run `kills` times, then let it end; a life that ends by itself begins it anew."""
    done = lives = 0
    while done < kills:
        begun = (folder / "config.yaml").is_file()
        child = start(["-m", "llmexp", "resume", str(folder)] if begun else words)
        wait, early = draw.uniform(0.0, longest), draw.random() < 0.25
        try:
            if not early:
                await_progress(child, folder)
            child.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            done += 1
            since = "the start" if early else "the first step"
            print(f"kill {done:3d} {wait:4.1f} s after {since}, at step {step(folder)}", flush=True)
            continue
        if child.returncode:
            finished(child)
        lives += 1
        print(f"completed after {done} kills; there are more to come: steps must be added")
        sys.exit(2)
    finished(start(["-m", "llmexp", "resume", str(folder)]))


def await_progress(child: subprocess.Popen[bytes], folder: Path) -> None:
    """Until this life has written to the history, or ended."""
    path, born = folder / "metrics.jsonl", time.time()
    while child.poll() is None and not (path.is_file() and path.stat().st_mtime > born):
        time.sleep(0.02)


def step(folder: Path) -> int:
    """The last step in the history."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    try:
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except ValueError:
        return -1


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
    parser.add_argument("--longest", type=float, default=5.0, help="seconds before a kill, at most")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = ["run.py", *settings(folder / "cache", given.steps)]
        began = time.monotonic()
        finished(start([*common, f"hydra.run.dir={folder / 'quiet'}"]))
        print(f"the quiet run took {time.monotonic() - began:.0f} s", flush=True)
        words = [*common, f"hydra.run.dir={folder / 'haunted'}"]
        haunt(words, folder / "haunted", given.kills, draw, given.longest)
        found = different(left(folder / "quiet"), left(folder / "haunted"))
    print("not the same: " + ", ".join(found[:20]) if found else f"{given.kills} kills: same bits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
