"""A contestant: a command that does a piece of work in a process of its own, and its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peers.work import Work

Report = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "scripts" / "peers"
LAUNCH = Path(__file__).with_name("launch.py")
OURS = "llmexp"


@dataclass(frozen=True, kw_only=True)
class Side:
    """A name for the table, and the command that works in a folder of its own."""

    name: str
    command: Callable[[Path], list[str]]
    needs: tuple[str, ...] = ()
    """Packages without which it is left out."""
    work: Work | None = None
    """What a run of ours was given."""
    once: bool = False
    """In the first round only: it is no bar, or known to be slower than its best."""

    def missing(self) -> list[str]:
        return [name for name in self.needs if find_spec(name) is None]


class ContestantError(Exception):
    """A contestant ended with an error; the text is the end of what it printed."""


def measured(side: Side, folder: Path, gpu: bool = False) -> Report:
    """Run one contestant; its report with wall_seconds and the peak memory of its process."""
    folder.mkdir(parents=True)
    launch = [sys.executable, "-S", str(LAUNCH), str(folder), *side.command(folder)]
    subprocess.run(launch, env=surroundings(folder, gpu), check=True)
    took = json.loads((folder / "took.json").read_text(encoding="utf-8"))
    text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    if took.pop("exit_code") != 0:
        raise ContestantError(f"{side.name} failed:\n{text[-3000:]}")
    result = folder / "run" / "result.json"
    found = of_run(result.parent, side.work) if result.is_file() else last_json(text)
    found |= took
    seconds, steps = found.get("fit_seconds"), found.get("steps")
    if seconds and found.get("tokens"):
        found.setdefault("tokens_per_second", found["tokens"] / seconds)
    if seconds and steps:
        found["ms_per_step"] = 1000 * seconds / steps
    return found


def surroundings(folder: Path, gpu: bool) -> dict[str, str]:
    """The same environment for everybody, whatever a shell says; temporary files are ours to drop.

    Where the bars are those of a CPU nobody sees a GPU.
    """
    kept = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    kept |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return kept if gpu else kept | {"CUDA_VISIBLE_DEVICES": ""}


def of_run(folder: Path, work: Work | None) -> Report:
    """A run folder in the words of a contestant; a frozen prefix that was computed is training."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    history = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    cost, metrics = result["cost"], result["metrics"]
    seconds = cost["fit_seconds"] + (0 if cost["cache_hit"] else precomputed(folder.parent))
    steps = max((json.loads(line)["step"] for line in history), default=0)
    found = {
        "fit_seconds": seconds,
        "first_step_seconds": cost["first_step_seconds"],
        "first_step_tokens": cost["tokens_trained"] if steps == 1 else None,
        "steps": steps,
        "tokens": cost["tokens_trained"] + unread(result, work),
        "cache_hit": cost["cache_hit"],
        "loss": metrics.get("test/loss"),
        "accuracy": metrics.get("test/accuracy"),
    }
    if seconds:
        found["flops_per_second"] = cost["estimated_flops"] / seconds
    return found


def precomputed(folder: Path) -> float:
    """Seconds of what a run computed once and kept, but of its test rows: they are no training."""
    kept = [json.loads(path.read_text()) for path in (folder / "cache").rglob("meta.json")]
    return sum(entry.get("seconds", 0.0) for entry in kept if entry.get("split") != "test")


def unread(result: Report, work: Work | None) -> int:
    """The end of each answer: peers feed it to the network, here it is a label only."""
    answers = work is not None and work.task == "instruction" and work.steps < 0
    return result["examples"]["train"] * work.epochs if answers else 0


def last_json(text: str) -> Report:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise ContestantError(f"a contestant reported nothing:\n{text[-3000:]}")
    found: Report = json.loads(lines[-1])
    return found


def peer(
    name: str,
    script: str,
    work: Work,
    *needs: str,
    once: bool = False,
    python: str = sys.executable,
    more: tuple[str, ...] = (),
) -> Side:
    """One of scripts/peers on a work; `needs` are packages of this Python."""

    def command(folder: Path) -> list[str]:
        (folder / "work.json").write_text(json.dumps(asdict(work)), encoding="utf-8")
        return [python, str(PEERS / script), str(folder / "work.json"), *more]

    return Side(name=name, command=command, needs=needs, once=once)


def startup(name: str, *arguments: str, ends: int = 0) -> Side:
    """A command that trains nothing: how long it takes, and whether it imports torch.

    One that does not exit with `ends` has failed.
    """
    command = [sys.executable, str(PEERS / "startup.py"), str(ends), *arguments]
    return Side(name=name, command=lambda folder: command)


def roof() -> Side:
    return Side(
        name="2048-cubed matmul",
        command=lambda folder: [sys.executable, str(PEERS / "roof.py")],
    )
