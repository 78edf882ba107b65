"""One composed job, and where each of its values came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmexp.configure.refusals import key_of

PACKAGE = Path(__file__).parents[1]
# Optional groups, in the order of run.yaml's defaults list.
LATE = ("sweep", "experiment", "debug")


def conf_dir() -> Path:
    """The YAML groups: inside an installed wheel, or beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def is_typed(key: str, typed: frozenset[str]) -> bool:
    """Whether the value was written on the command line, by itself or with its node."""
    return any(key == name or key.startswith(name + ".") for name in typed)


@dataclass(frozen=True)
class Composed:
    """One composed job: a plain resolved tree, Hydra's node, and the overrides behind it."""

    tree: dict[str, Any]
    hydra: dict[str, Any]
    overrides: list[str]
    search: tuple[Path, ...]
    recorded: dict[str, Any] = field(default_factory=dict)
    """The tree as it may be written down: without secrets."""
    sweeps: bool = False
    """Whether it is one of the jobs of a sweep."""

    def where(self, key: str) -> str:
        """Which file, or the command line, gave `key` its value."""
        choices = self.hydra["runtime"]["choices"]
        for override in self.overrides:
            name = key_of(override)
            if name not in choices and (key == name or key.startswith(name + ".")):
                return "command line"
        group = key.split(".")[0].split("[")[0]
        option = choices.get(group)
        leaf = re.escape(key.split(".")[-1].split("[")[0])
        for file in self._files(group, option):
            if "." not in key or re.search(rf"(^|[{{,\s]){leaf}\s*:", file.read_text(), re.M):
                ours = file.is_relative_to(conf_dir())
                return f"conf/{file.parent.name}/{file.name}" if ours else str(file)
        return f"conf/{group}/{option}.yaml" if option else "conf/run.yaml"

    def _files(self, group: str, option: str | None) -> Iterator[Path]:
        choices = self.hydra["runtime"]["choices"]
        late = [(g, choices.get(g)) for g in reversed(LATE)]
        for folder, name in [*late, (group, option)]:
            for root in self.search if name else ():
                if (root / folder / f"{name}.yaml").is_file():
                    yield root / folder / f"{name}.yaml"
