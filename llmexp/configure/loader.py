"""The one Hydra of a process, and its one way to compose: what it composes is judged first.

Hydra composes more often than once: for itself, for each job of a sweep, in a process of a
launcher's. What was looked at is what runs only where every one of these goes through here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from llmexp.configure import packages
from llmexp.configure.composed import conf_dir
from llmexp.configure.judge import judged
from llmexp.errors import ConfigError

# The choice of another group, which is the same whenever it is looked at.
CHOICE = re.compile(r"\$\{[\w./@]+\}", re.ASCII)


class JudgedRepository(ConfigRepository):
    """Files whose defaults lists name files: nothing in them is looked up elsewhere."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        found = super().load_config(config_path)
        for entry in (found.defaults_list or ()) if found is not None else ():
            text = " ".join(str(part) for part in vars(entry).values())
            if "${" in CHOICE.sub("", text):
                raise ConfigError(
                    [f"{config_path}.yaml: defaults: may hold ${{GROUP}} and no other ${{...}}"]
                )
        return found


class JudgedLoader(ConfigLoaderImpl):
    """Composes what is judged before anybody has it; travels with Hydra into its launchers."""

    def __init__(
        self, path: ConfigSearchPath, search: tuple[Path, ...], typed: frozenset[str]
    ) -> None:
        super().__init__(path)
        self.repository = JudgedRepository(path)
        self.search = search
        self.typed = typed

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """As Hydra's, which looks for what a glob may be in our own folder only."""
        lines = [*searchpath_override(self.search), *(overrides or [])]
        return super().get_group_options(group_name, results_filter, config_name, lines)

    def unjudged(self, config_name: str | None, overrides: list[str]) -> DictConfig:
        """A config to look at: to judge it, or to explain what is wrong with another."""
        return self._loaded(config_name, overrides, RunMode.RUN, False, True)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        return self._judged(
            self._loaded(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        )

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        shared: Any = OmegaConf.to_container(master_config.hydra.overrides.hydra)
        name = master_config.hydra.job.config_name
        cfg = self.unjudged(name, [*shared, *sweep_overrides])
        OmegaConf.copy_cache(from_config=master_config, to_config=cfg)
        return self._judged(cfg)

    def _loaded(self, *asked: Any) -> DictConfig:
        try:
            return super().load_configuration(*asked)
        except KeyError as error:  # Hydra looks up what env_copy names while it composes
            said = f"{error} is not in the environment, and YAML sets no variables there"
            raise ConfigError([f"conf: hydra.job.env_copy: {said}"]) from error
        except RecursionError as error:
            raise ConfigError(["conf: a YAML file is nested too deeply"]) from error

    def _judged(self, cfg: DictConfig) -> DictConfig:
        """The config itself, with the same look at the clock that was judged."""
        before = HydraConfig.instance().cfg
        looked_at = copy.deepcopy(cfg)
        lines = [*cfg.hydra.overrides.hydra, *cfg.hydra.overrides.task]
        try:
            judged(looked_at, lines, self.search, self.typed)
        finally:
            HydraConfig.instance().cfg = before
        OmegaConf.copy_cache(from_config=looked_at, to_config=cfg)
        return cfg


def searchpath_override(search: tuple[Path, ...]) -> list[str]:
    """The override that puts folders other than our own on Hydra's search path."""
    others = [f"file://{path}" for path in search if path != conf_dir()]
    return [f"hydra.searchpath=[{','.join(others)}]"] if others else []


@contextmanager
def opened(search: tuple[Path, ...], typed: frozenset[str]) -> Iterator[Hydra]:
    """Hydra, over these folders; `typed` are the keys that a person wrote."""
    packages.guard()
    version.setbase("1.3")
    path = create_config_search_path(str(conf_dir()))
    hydra = Hydra("run", JudgedLoader(path, search, typed))
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    try:
        yield hydra
    finally:
        GlobalHydra.instance().clear()
