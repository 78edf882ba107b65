"""What this machine reaches at best, in operations a second: a 2048-cubed float32 product."""

from __future__ import annotations

import json
import time

import torch

SIDE = 2048


def roof(seconds: float = 3.0) -> float:
    """The fastest of the products that fit into some seconds."""
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    torch.mm(a, b)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


if __name__ == "__main__":
    print(json.dumps({"flops_per_second": roof()}))
