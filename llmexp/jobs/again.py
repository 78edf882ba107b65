"""`llmexp resume RUN`: the same run once more, from what its folder says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from llmexp.configure import roots
from llmexp.errors import ConfigError, UserError
from llmexp.jobs import launch
from llmexp.jobs.job import CONFIG, command, read_config
from llmexp.jobs.lock import FolderLock
from llmexp.jobs.results import write_atomic


def of_anybody(folder: Path) -> dict[str, Any]:
    """The config of a run that a person names, who may have it from somebody else."""
    tree, _ = read_config(folder)
    if outside := roots.of_run(tree, folder):
        raise ConfigError(outside)
    return tree


def main(argv: list[str]) -> int:
    """Go on with the run of a folder; replaces this process by its job."""
    if len(argv) != 1:
        raise UserError(
            "usage: llmexp resume RUN, where RUN is a folder such as outputs/NAME/STAMP"
        )
    folder = Path(argv[0]).resolve()
    tree = of_anybody(folder)
    if launch.is_first():
        with FolderLock(folder) as lock:
            tree, how = read_config(folder)
            again = {**tree, "resume": "auto", "launch": how}
            write_atomic(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(again)))
            lock.keep()
    else:
        launch.join(folder / CONFIG, {**tree, "resume": "auto"})
    words = command(folder)
    os.execv(words[0], words)  # noqa: S606
