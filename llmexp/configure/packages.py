"""`pkg://` on Hydra's search path: to look for YAML in a package, Hydra imports the package."""

from __future__ import annotations

from hydra._internal.core_plugins import importlib_resources_config_source as importing
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

from llmexp.configure.allow import widened
from llmexp.errors import UserError

# Hydra's own files, and those of plugins that are installed.
HYDRA = ("hydra", "hydra_plugins")


def is_allowed(package: str) -> bool:
    """Whether a package may be imported to look for YAML in it."""
    return any(package == name or package.startswith(name + ".") for name in (*HYDRA, *widened()))


class ImportlibResourcesConfigSource(importing.ImportlibResourcesConfigSource):
    """A package as a place for YAML; under the name of the one it takes the place of."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        if not is_allowed(self.path):
            raise UserError(
                f"hydra.searchpath: pkg://{self.path} would be imported, and is not on the "
                "allow-list; --config-dir FOLDER adds a folder of YAML"
            )


def guard() -> None:
    """From now on Hydra imports no package that is not on the allow-list to look into it."""
    Plugins.instance()
    SourcesRegistry.instance().types["pkg"] = ImportlibResourcesConfigSource
