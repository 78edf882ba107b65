"""What Hydra wrote down about a run, and what it says about the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmexp.jobs.results import write_atomic
from llmexp.secrets import masked

# What Hydra writes into its folder inside a run's.
FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")
# Hydra's word for folders of YAML that a command line, or we, put on its search path.
COMMAND_LINE = "hydra.searchpath in command-line"


def scrub(folder: Path, hydra: DictConfig) -> None:
    """Hide the secrets in what Hydra has just written about the run, and touch nothing else."""
    files = [folder.parent / "multirun.yaml"] if hydra.mode.name == "MULTIRUN" else []
    if hydra.output_subdir is not None:
        files += [folder / hydra.output_subdir / name for name in FILES]
    for file in files:
        if file.is_file():
            tree: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            if masked(tree) != tree:
                write_atomic(file, OmegaConf.to_yaml(OmegaConf.create(masked(tree))))


def options(hydra: DictConfig) -> list[str]:
    """The options of the command line that chose the YAML."""
    from llmexp.configure.compose import plugin_search

    others = {str(path) for path in plugin_search()}
    given = [s.path for s in hydra.runtime.config_sources if s.provider == COMMAND_LINE]
    folders = [path for path in given if path not in others]
    name = hydra.job.config_name
    words = [word for path in folders for word in ("--config-dir", os.path.relpath(path))]
    return words + ([] if name in (None, "run") else ["--config-name", name])
