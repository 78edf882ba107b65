"""`model.compile`: torch.compile on each block that is trained, in place."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from llmexp.errors import UserError
from llmexp.nets.architecture import blocks

if TYPE_CHECKING:
    import torch

GPUS = ("auto", "gpu", "cuda")
VOLTA = (7, 0)


def check_here(asked: bool, hardware: dict[str, Any]) -> None:
    """A compiler that is not there is one sentence before any work, not a trace in the first step.

    On a GPU triton makes the kernels and a C compiler what starts them; on a CPU both are C++.
    """
    import torch

    gpu = torch.cuda.is_available() and hardware.get("accelerator", "auto") in GPUS
    why = missing(gpu) if asked else None
    if why is not None:
        raise UserError(f"model.compile: {why}, or leave model.compile=false")


def no_compiler(device: torch.device) -> str | None:
    """Why blocks are not to be compiled where a network is; None: they can be."""
    import torch

    if device.type != "cuda":
        return "not on a CPU unless asked, by model.compile=true"
    if torch.cuda.get_device_capability(device) < VOLTA:
        return f"triton writes no kernels for {torch.cuda.get_device_name(device)}"
    return missing(gpu=True)


def missing(gpu: bool) -> str | None:
    """What torch.compile needs and does not find, and how to get it."""
    compiler = os.environ.get("CC", "gcc") if gpu else os.environ.get("CXX", "g++")
    language = "C" if gpu else "C++"
    if gpu and find_spec("triton") is None:
        return "torch.compile needs the package triton; pip install triton"
    # Torch looks for other names where the usual one is not there.
    others = ("cc", "clang") if gpu else ("clang++", "c++")
    if not any(shutil.which(name) for name in (compiler, *others)):
        return (
            f"torch.compile needs a {language} compiler and {compiler} is not on the PATH; "
            "install one (apt-get install g++)"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return (
            f"torch.compile needs Python's own headers and {header.name} is not where this Python "
            "looks for it; install python3-dev"
        )
    return None


def compile_blocks(net: nn.Module, frozen: list[nn.Module]) -> None:
    """Compile the blocks above the frozen ones; names of parameters stay what they are.

    One block at a time: they share what is compiled, and what is between them may be anything.
    Frozen blocks may be stood in for by stored states, which a compiled one would not notice.
    """
    for block in blocks(net):
        if not any(block is other for other in frozen):
            # Batches of like length differ from each other in both sizes.
            block.compile(dynamic=True)


@contextmanager
def eagerly(net: nn.Module) -> Iterator[None]:
    """Compute the blocks as they are written where they were compiled."""
    import torch

    compiled = any(block._compiled_call_impl is not None for block in blocks(net))
    # It imports the compiler, a second and more.
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield
