"""`model.compile`: torch.compile on each block that is trained, in place."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from torch import nn

from llmexp.errors import UserError
from llmexp.nets.architecture import blocks

GPUS = ("auto", "gpu", "cuda")
ELSE = "or leave model.compile=false"


def check_here(asked: bool, hardware: dict[str, Any]) -> None:
    """A compiler that is not there is one sentence before any work, not a trace in the first step.

    On a GPU triton makes the kernels and a C compiler what starts them; on a CPU both are C++.
    """
    import torch

    if not asked:
        return
    gpu = torch.cuda.is_available() and hardware.get("accelerator", "auto") in GPUS
    compiler = os.environ.get("CC", "gcc") if gpu else os.environ.get("CXX", "g++")
    language = "C" if gpu else "C++"
    # Torch looks for other names where the usual one is not there.
    others = ("cc", "clang") if gpu else ("clang++", "c++")
    if not any(shutil.which(name) for name in (compiler, *others)):
        raise UserError(
            f"model.compile: torch.compile needs a {language} compiler and {compiler} is not on "
            f"the PATH; install one (apt-get install g++), {ELSE}"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise UserError(
            f"model.compile: torch.compile needs Python's own headers and {header.name} is not "
            f"where this Python looks for it; install python3-dev, {ELSE}"
        )


def compile_blocks(net: nn.Module, frozen: list[nn.Module]) -> None:
    """Compile the blocks above the frozen ones; names of parameters stay what they are.

    One block at a time: they share what is compiled, and what is between them may be anything.
    Frozen blocks may be stood in for by stored states, which a compiled one would not notice.
    """
    for block in blocks(net):
        if not any(block is other for other in frozen):
            # Batches of like length differ from each other in both sizes.
            block.compile(dynamic=True)
