"""What states of a frozen network depend on beside its weights and the tokens it reads."""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmexp.data.token_key import code_of
from llmexp.nets.architecture import unwrapped

if TYPE_CHECKING:
    from torch import nn

    from llmexp.context import Context

# Folders of this package that collate a batch, run a network on it and keep what comes out.
FOLDERS = ("cache", "data", "modules", "nets", "tasks")
LIBRARIES = ("torch", "transformers")
UNKNOWN = "the source of the task or of the network cannot be read, so a change of it would go by"


def circumstances(context: Context, net: Any) -> dict[str, Any] | None:
    """How states are computed, for the key they are kept under; None where that is unknown."""
    ours, architecture = code_of(type(context.task), FOLDERS), _architecture(net)
    if ours is None or architecture is None:
        return None
    return {
        "code": ours,
        "architecture": architecture,
        "libraries": {name: version(name) for name in LIBRARIES},
        # Not among what a config writes down of itself.
        "attention": str(getattr(unwrapped(net).config, "_attn_implementation", None)),
        "device": net.device.type,
        "float32 products": torch.get_float32_matmul_precision(),
        "max_length": context.max_length,
    }


def _architecture(net: nn.Module) -> str | None:
    """A hash of the sources of every module of a network: code of a checkpoint's own, too."""
    try:
        files = {Path(inspect.getfile(cls)) for cls in {type(module) for module in net.modules()}}
    except (OSError, TypeError):
        return None
    found = hashlib.sha256()
    for path in sorted(files):
        if not path.is_file():
            return None
        found.update(f"{path.name}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()
