"""How Lightning's checkpoints reach the disk: see `generations.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from llmexp.checkpoints.generations import Generations


class DurableCheckpoints(TorchCheckpointIO):
    """Writes through `Generations`; reads as Lightning does, tensors and plain values only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        step, size = int(checkpoint["global_step"]), size_of(checkpoint)
        Generations(path.parent).write(path.name, partial(write, checkpoint), size, step)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return super().load_checkpoint(path, map_location, weights_only=True)


def write(checkpoint: dict[str, Any], file: Any) -> None:
    """As `torch.save`, whose writer tells of a failed write in its own words over the reason."""
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        if error.__context__ is not None:
            raise error.__context__ from error
        raise


def size_of(value: Any) -> int:
    """Bytes that a checkpoint takes on disk, about; tensors that share memory are written once."""
    seen: dict[int, int] = {}
    _measure(value, seen)
    return sum(seen.values()) + (1 << 16)


def _measure(value: Any, seen: dict[int, int]) -> None:
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, dict):
        for part in value.values():
            _measure(part, seen)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _measure(part, seen)
