"""Numbers as a table shows them: few characters, no false digits."""

from __future__ import annotations


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.4g}"


def seconds(value: float) -> str:
    """A duration in at most six characters."""
    if value < 1000:
        return f"{value:.1f}s"
    return f"{value / 60:.1f}m" if value < 60_000 else f"{value / 3600:.1f}h"


def short(count: int) -> str:
    """A count in three digits: 341k, 22.7M, 7.24B."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def memory(megabytes: float) -> str:
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"
