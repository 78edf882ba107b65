"""What produced a run: command, code, packages, data, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and whether tracked files differ from it; nulls outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603
                ["git", "-C", str(folder), *arguments],  # noqa: S607
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def provenance(overrides: list[str]) -> dict[str, Any]:
    """Facts known before the data is read; the data fingerprint is added by the run."""
    import torch

    # Each look at a distribution's metadata reads its file again.
    found = [(about["Name"], about["Version"]) for d in distributions() if (about := d.metadata)]
    packages = {name: version for name, version in found if name}
    return {
        "command": ["python", "run.py", *overrides],
        "git": git_state(Path(__file__).parent),
        "python": sys.version.split()[0],
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        "hardware": {
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }
