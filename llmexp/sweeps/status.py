"""`llmexp status PATH`: how a sweep, or a run, is going; it only reads."""

from __future__ import annotations

import argparse
import io
import json
import socket
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.text import Text

from llmexp.errors import UserError
from llmexp.jobs.events import events
from llmexp.jobs.results import read_result
from llmexp.sweeps.board import FILE, Board
from llmexp.sweeps.orphans import runs_in
from llmexp.sweeps.table import best, headline, notes, paper, spent_by, table

WATCH_SECONDS = 2.0
State = dict[str, Any]


def main(argv: list[str]) -> int:
    """Print the state; returns the exit code."""
    args = _parser().parse_args(argv)
    folder = Path(args.path)
    if args.json:
        print(json.dumps(state_of(folder), indent=2))
        return 0
    if args.watch:
        return _watch(folder)
    show(state_of(folder), folder, paper())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmexp status", description="How a sweep, or a run, is going."
    )
    parser.add_argument("path", help="the folder of a sweep or of a run")
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.add_argument("--watch", action="store_true", help="until the sweep has ended")
    return parser


def state_of(folder: Path) -> State:
    """The jobs as they are now, also where a killed sweep could not write it down."""
    state = Board(folder).read() or _single(folder)
    # Between a start and the composing of its jobs: those of the starts before it.
    state["jobs"] = state["jobs"] or state.get("earlier", [])
    alive = state["status"] == "running" and ("workers" not in state or _alive(state))
    if state["status"] == "running" and not alive:
        state["status"] = "cut off"
    for job in state["jobs"]:
        if job["status"] != "running":
            continue
        where = folder / job["name"]
        if alive or runs_in(job["pid"], where):
            job |= progress(where)
        else:
            job |= {"status": "cut off", "reason": "its process is gone; start the sweep again"}
    return state | {"remaining": remaining(state["jobs"]) if alive else None}


def _single(folder: Path) -> State:
    """A run that belongs to no sweep, in the same shape."""
    result = read_result(folder)
    if not result:
        raise UserError(f"{folder} holds neither a sweep ({FILE}) nor a run (result.json)")
    job = {"name": ".", "status": result["status"], "reason": result.get("reason")}
    job |= {"overrides": result.get("overrides", []), "values": result.get("metrics", {})}
    job |= {"seconds": result.get("cost", {}).get("total_seconds"), "started": None, "pid": None}
    return {"status": result["status"], "jobs": [job]}


def _alive(state: State) -> bool:
    """Whether a process that runs the sweep is there; on another machine nobody can tell."""
    return any(map(_lives, state["workers"]))


def _lives(worker: State) -> bool:
    if worker["host"] != socket.gethostname():
        return True
    try:
        return bool(psutil.Process(worker["pid"]).create_time() <= worker["started"])
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def progress(folder: Path) -> State:
    """How far a running job has come, by the last lines of its `metrics.jsonl`."""
    lines = events(folder / "metrics.jsonl")
    values = {k: v for line in lines for k, v in line.items() if k.startswith(("val/", "test/"))}
    return {"step": lines[-1]["step"] if lines else 0, "values": values}


def remaining(jobs: list[State]) -> float | None:
    """Seconds until all jobs are done, by what the completed ones took; None while none is.

    A guess: by those of the same strategy where there are any, else by all, whatever else differs;
    a job that was resumed took what its last process did.
    """
    done = [job for job in jobs if job["status"] == "completed" and job["seconds"]]
    if not done:
        return None
    running = [job for job in jobs if job["status"] == "running"]
    left = sum(_usual(job, done) for job in jobs if job["status"] == "pending")
    left += sum(max(_usual(job, done) - (spent_by(job) or 0.0), 0.0) for job in running)
    return round(left / max(1, len(running)), 1)


def _usual(job: State, done: list[State]) -> float:
    """The mean seconds of the jobs that are most like this one."""
    alike = [one["seconds"] for one in done if _strategy(one) == _strategy(job)]
    took = alike or [one["seconds"] for one in done]
    return float(sum(took) / len(took))


def _strategy(job: State) -> str | None:
    """What the job itself says; None where the sweep has one for all."""
    said = [line for line in job["overrides"] if line.startswith("strategy=")]
    return said[-1] if said else None


def show(state: State, folder: Path, console: Console) -> None:
    """The table, and what it comes to."""
    console.print(table(state))
    for line in [*notes(state), *best(state)]:
        console.print(line, soft_wrap=True, markup=False)
    left = state["remaining"]
    more = "" if left is None else f"; roughly {_duration(left)} remain"
    console.print(f"\n{folder}: {state['status']}; {headline(state)}{more}", soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _watch(folder: Path) -> int:
    """Show the state again and again until nothing runs any more."""
    from rich.live import Live

    with Live(refresh_per_second=4) as live:
        while True:
            state = state_of(folder)
            console = Console(file=io.StringIO(), width=live.console.width, force_terminal=True)
            show(state, folder, console)
            live.update(Text.from_ansi(console.file.getvalue()))  # type: ignore[attr-defined]
            if state["status"] != "running":
                return 0
            time.sleep(WATCH_SECONDS)
