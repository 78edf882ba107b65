"""What a person sees of a sweep: one line a job."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

MOST_METRICS = 2
# A log has no width of its own; a name is at most 80 characters long.
LOG_WIDTH = 140
# Per-label scores are in result.json.
HIDDEN = "/f1/"
STYLES = {"completed": "green", "running": "cyan", "pending": "dim", "pruned": "dim"}


def show(state: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """The table of all jobs, the reasons of those that failed, and what to type next."""
    console = console or paper()
    console.print(table(state))
    for line in [*notes(state), *best(state)]:
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"\n{headline(state)}. Everything is in {folder}", soft_wrap=True, markup=False)
    console.print(f"Next:\n  llmexp compare {folder}", soft_wrap=True, markup=False)


def paper() -> Console:
    """Where the table is printed."""
    width = None if sys.stdout.isatty() else LOG_WIDTH
    return Console(highlight=False, width=width)


def table(state: dict[str, Any]) -> Table:
    jobs = state["jobs"]
    metrics = shown_metrics(jobs)
    made = Table(box=None, pad_edge=False)
    for name in ("job", "status"):
        made.add_column(name, no_wrap=name == "status", overflow="fold")
    for name in (*metrics, "seconds"):
        made.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        values = [_number(job["values"].get(name)) for name in metrics]
        status = Text(job["status"], STYLES.get(job["status"], "red"))
        seconds = "" if (spent := spent_by(job)) is None else f"{spent:,.0f}"
        made.add_row(job["name"], status, *values, seconds)
    return made


def shown_metrics(jobs: list[dict[str, Any]]) -> list[str]:
    """What most jobs have, losses last."""
    counts: dict[str, int] = {}
    for name in (name for job in jobs for name in job["values"] if HIDDEN not in name):
        counts[name] = counts.get(name, 0) + 1
    order = sorted(counts, key=lambda name: (-counts[name], name.endswith("/loss"), name))
    return order[:MOST_METRICS]


def notes(state: dict[str, Any]) -> list[str]:
    """Why jobs are not complete."""
    return [f"{j['status']}: {j['name']}: {j['reason']}" for j in state["jobs"] if j["reason"]]


def best(state: dict[str, Any]) -> list[str]:
    """The winner of a search, or its Pareto front."""
    found = state.get("best") or []
    several = any(len(trial["values"]) > 1 for trial in found)
    title = "no trial beats these in every objective (Pareto front):" if several else "best:"
    lines = []
    for trial in sorted(found, key=lambda one: list(one["values"].values())):
        values = "  ".join(f"{key} {_number(value)}" for key, value in trial["values"].items())
        lines.append(f"  {values}  {' '.join(trial['overrides'])}  ({trial['name']})")
    return ["", title, *lines] if lines else []


def headline(state: dict[str, Any]) -> str:
    """How many jobs are in which state."""
    counts: dict[str, int] = {}
    for job in state["jobs"]:
        counts[job["status"]] = counts.get(job["status"], 0) + 1
    said = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    return f"{len(state['jobs'])} jobs: {said or 'none yet'}"


def spent_by(job: dict[str, Any]) -> float | None:
    """Seconds a job took, or has taken so far."""
    if job["status"] == "running" and job["started"] is not None:
        return time.time() - job["started"]
    return job["seconds"]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
