"""Where each value of a composed experiment came from, read off Hydra's own defaults list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from llmexp.configure.composed import Composed, conf_dir
from llmexp.configure.loader import searchpath_override
from llmexp.configure.refusals import key_of

COMMAND_LINE = "command line"
BUILT_IN = "built in"
MAIN = "run"
# Values that a person chose for this experiment, as against those a group brings along.
CHOSEN = ("experiment/", "sweep/")


class Origins:
    """The leaves of one experiment, each with its file; later files win, the command line last."""

    def __init__(self, job: Composed, config_name: str = "run"):
        self.job = job
        self.found: dict[str, str] = {}
        self.chosen: dict[str, str] = {}
        """Keys that the command line or an experiment gave, with where."""
        # A main page of one's own chooses its values as an experiment does.
        self.own = config_name if config_name != MAIN else None
        for path, package in _files(job, config_name):
            self._read(path, package)
        for override in job.overrides:
            # A group's name chooses a file, whose values are that file's.
            if key_of(override) not in job.hydra["runtime"]["choices"]:
                self._set(key_of(override), COMMAND_LINE)
            self.chosen[key_of(override)] = COMMAND_LINE

    def of(self, key: str) -> str:
        """Where the value of a leaf came from."""
        while key:
            if key in self.found:
                return self.found[key]
            key = key.rpartition(".")[0]
        return BUILT_IN

    def values(self, specs: dict[str, Any]) -> list[dict[str, Any]]:
        """Every leaf of the experiment with its value and origin, those of the classes too."""
        leaves = dict(flat(self.job.tree))
        for group, spec in specs.items():
            for name in type(spec).__pydantic_fields__ if spec is not None else ():
                key = f"{group}.{name}"
                if not any(k == key or k.startswith(f"{key}.") for k in leaves):
                    leaves[key] = _plain(getattr(spec, name))
        return [{"key": k, "value": v, "from": self.of(k)} for k, v in leaves.items()]

    def _read(self, path: str, package: str) -> None:
        file = next((r / f"{path}.yaml" for r in self.job.search if _is_file(r, path)), None)
        if file is None:
            return
        node = OmegaConf.load(file)
        if not isinstance(node, DictConfig):
            return
        node.pop("defaults", None)
        ours = file.is_relative_to(conf_dir())
        shown = f"conf/{path}.yaml" if ours else str(file)
        for key, _ in flat(OmegaConf.to_container(node, resolve=False)):
            full = f"{package}.{key}" if package else key
            self._set(full, shown)
            if path.startswith(CHOSEN) or path == self.own:
                self.chosen[full] = shown

    def _set(self, key: str, origin: str) -> None:
        for below in [k for k in self.found if k.startswith(f"{key}.")]:
            del self.found[below]
        self.found[key] = origin


def _is_file(root: Path, path: str) -> bool:
    return (root / f"{path}.yaml").is_file()


def _files(job: Composed, config_name: str) -> Iterator[tuple[str, str]]:
    """(path without its ending, package) of each YAML file in the order they were merged."""
    lines = [*searchpath_override(job.search), *job.overrides]
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="run"):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list(config_name, lines, RunMode.RUN)
    for default in found.defaults:
        package = default.package or ""
        if default.config_path and package.split(".")[0] != "hydra":
            yield default.config_path, package


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; an empty mapping is one."""
    for key, value in node.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and value:
            yield from flat(value, name)
        else:
            yield name, value


def _plain(value: Any) -> Any:
    fields = getattr(type(value), "__pydantic_fields__", None)
    return {name: _plain(getattr(value, name)) for name in fields} if fields else value
