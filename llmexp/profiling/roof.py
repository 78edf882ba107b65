"""What a machine reaches at best: a 2048-cubed matrix product, in operations a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SIDE = 2048


def roof(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seconds: float = 0.5,
    side: int = SIDE,
) -> float:
    """The fastest of the products that fit into some seconds; their memory is freed again."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else _nothing
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        began = time.perf_counter()
        torch.mm(a, b)
        wait()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _nothing() -> None:
    """A CPU is done when it returns."""
