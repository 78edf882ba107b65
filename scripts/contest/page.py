"""The table, and the figures as JSON with a description of the machine."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contest.agenda import Contest
from contest.bars import written
from contest.ledger import Ledger

PACKAGES = ("torch", "pytorch-lightning", "transformers", "peft", "bitsandbytes", "trl")
PACKAGES += ("sentence-transformers", "scikit-learn")


def lines(contests: list[Contest], ledger: Ledger) -> list[dict[str, Any]]:
    """One for each bar that was measured."""
    found = []
    for contest in contests:
        rounds = list(ledger.rounds(contest).values())
        found += [line for bar in contest.bars if (line := bar.line(rounds)) is not None]
    return found


def machine() -> dict[str, Any]:
    """What was measured on: the processor and the versions, no names and no paths."""
    import psutil
    import torch

    cpu = platform.processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    if known.is_file():
        names = [x for x in known.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": versions,
    }


def page(contests: list[Contest], ledger: Ledger) -> dict[str, Any]:
    """Everything that docs/benchmarks.md and its picture rest on."""
    raw = {contest.title: ledger.rounds(contest) for contest in contests}
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "sizes": ledger.sizes,
        "bars": lines(contests, ledger),
        "rounds": {title: list(found.values()) for title, found in raw.items() if found},
    }


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def table(found: list[dict[str, Any]]) -> str:
    """As docs/benchmarks.md holds it."""
    head = ["#", "work", "against", "measure", "ours", "theirs", "value", "bar", ""]
    body = [
        [
            line["number"], line["work"], line["against"] or "-", line["measure"],
            figure(line["ours"]), figure(line["other"]), written(line), limit(line),
            {True: "met", False: "MISSED", None: "reported"}[line["met"]],
        ]
        for line in found
    ]  # fmt: skip
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *body])


def limit(line: dict[str, Any]) -> str:
    if line["bar"] is None:
        return "-"
    return f"{'>=' if line['more_is_better'] else '<='} {written(line, 'bar')}"


def figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def describe(sizes: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(sizes).items())
