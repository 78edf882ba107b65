"""What was measured on: the processor and the versions, no names and no paths."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "pytorch-lightning", "transformers", "peft", "bitsandbytes", "trl")
PACKAGES += ("sentence-transformers", "scikit-learn")


def machine() -> dict[str, Any]:
    """As every line of a ledger and docs/benchmarks.json have it."""
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
