"""What every process holds."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def from_all(mine: T) -> list[T]:
    """Each process's own, in the order of their ranks; in a process that is alone, its own only."""
    if not dist.is_available() or not dist.is_initialized():
        return [mine]
    parts: list[T] = [mine] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return parts
