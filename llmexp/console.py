"""What a person sees when a run ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Per-label scores are in result.json; a table of them would hide the rest.
HIDDEN = ("f1/",)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def summary(result: dict[str, Any], folder: Path) -> None:
    """Metrics beside the baseline, what they cost, where everything is, what to type next."""
    console = Console(highlight=False)
    shown = [k for k in result["metrics"] if not k.split("/", 1)[1].startswith(HIDDEN)]
    metrics, baseline = result["metrics"], result["baseline"]
    table = Table(title=f"{result['name']}  seed {result['seed']}", title_justify="left")
    table.add_column("metric")
    table.add_column("this run", justify="right")
    table.add_column("baseline", justify="right")
    for key in sorted(shown, key=lambda k: (k.startswith("val/"), k)):
        table.add_row(key, _number(metrics[key]), _number(baseline.get(key)))
    console.print(table)
    console.print(_cost(result["cost"]))
    here = os.path.relpath(folder)
    console.print(f"\nEverything is in {here}", soft_wrap=True)
    console.print(f'Next:\n  llmexp predict {here} "some text"', soft_wrap=True)
    console.print("  llmexp compare outputs/")


def _cost(cost: dict[str, Any]) -> str:
    share = cost["trainable_parameters"] / max(1, cost["total_parameters"])
    return (
        f"cost: trained {cost['trainable_parameters']:,} of {cost['total_parameters']:,} "
        f"parameters ({share:.2%}) in {cost['fit_seconds']:.1f} s "
        f"({cost['tokens_per_second']:,.0f} tokens/s), {cost['total_seconds']:.1f} s in all, "
        f"peak memory {cost['peak_memory_mb']:,.0f} MB"
    )


def stopped(result: dict[str, Any], folder: Path) -> None:
    """A run that did not complete: why, and how to go on."""
    console = Console(stderr=True, highlight=False)
    console.print(f"{result['status']}: {result['reason']}", soft_wrap=True)
    console.print(f"continue with: {result['resume_command']}", soft_wrap=True)
