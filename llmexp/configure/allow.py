"""Which code a YAML file may name: `_target_` is code execution, so Python decides, never YAML.

A user widens the list with the environment variable `LLMEXP_ALLOW=package,other.module` or by
installing a package that declares an entry point in the group `llmexp.plugins`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from llmexp.errors import UserError

BUILT_IN = (
    "llmexp.strategies",
    "llmexp.tasks",
    "llmexp.models",
    "llmexp.optim",
    "llmexp.tracking",
    "llmexp.callbacks",
    "llmexp.profiling",
    "llmexp.debug",
    "llmexp.sharding",
    "llmexp.sweeps",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.strategies",
    "pytorch_lightning.plugins",
    "pytorch_lightning.profilers",
)
# Hydra instantiates these itself, from its own nodes, before any of our code runs.
HYDRA_OWN = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.llmexp_sweeps",
    "hydra_plugins.hydra_joblib_launcher",
    "hydra_plugins.hydra_submitit_launcher",
    "llmexp.sweeps",
)
# Hydra's words for "call it with these", "do not call it yet": a spec is always called by name.
CALLING = ("_args_", "_partial_", "_recursive_", "_convert_")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def widened() -> tuple[str, ...]:
    """What the user trusts beyond our own: from the environment, from installed plugins."""
    from_environment = [p.strip() for p in os.environ.get("LLMEXP_ALLOW", "").split(",")]
    return tuple(p for p in (*from_environment, *plugins()) if p)


@cache
def plugins() -> tuple[str, ...]:
    """Modules of installed plugins; looking through all packages takes a while."""
    return tuple(point.module for point in entry_points(group="llmexp.plugins"))


def prefixes(inside_hydra: bool = False) -> tuple[str, ...]:
    """Everything that may be named, in the experiment or in Hydra's own node."""
    return (*(HYDRA_OWN if inside_hydra else BUILT_IN), *widened())


def _under(target: str, allowed: tuple[str, ...]) -> bool:
    return any(target == p or target.startswith(p + ".") for p in allowed)


def complaint(target: Any, allowed: tuple[str, ...]) -> str | None:
    """Why `target` may not be named, or None; looks at the string only, imports nothing."""
    if not isinstance(target, str) or not DOTTED.fullmatch(target):
        return f"{target!r:.80} is not the dotted name of a class"
    if _under(target, allowed):
        return None
    package = target.split(".")[0]
    return (
        f"{target} is not on the allow-list; if you trust the package, start the run with "
        f"LLMEXP_ALLOW={package} in the environment"
    )


def named(node: Any, key: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every (key, name, value) of a plain tree, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            here = f"{key}.{name}" if key else str(name)
            yield here, str(name), value
            yield from named(value, here)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from named(value, f"{key}[{i}]")


def complaints(tree: dict[str, Any]) -> list[str]:
    """One sentence for each forbidden name in the tree of an experiment."""
    found, allowed = [], prefixes()
    for key, name, value in named(tree):
        why = complaint(value, allowed) if name == "_target_" else None
        if name in CALLING:
            why = "is Hydra's, and not used here: name a class and its arguments"
        found += [f"{key}: {why}"] if why else []
    return found


def resolve(target: str, allowed: tuple[str, ...] | None = None) -> type[Any]:
    """Import the class that `target` names; its own home must be allowed too, not only the road.

    `llmexp.models.os.system` is refused: the road is ours, the home is `posix`.
    """
    found = imported(target, prefixes() if allowed is None else allowed)
    if not isinstance(found, type):
        raise UserError(f"{target} is not a class of an allowed package")
    return found


def imported(target: str, allowed: tuple[str, ...]) -> Any:
    """The class or function that `target` names, checked before and after it is imported."""
    why = complaint(target, allowed)
    if why:
        raise UserError(why)
    parts = target.split(".")
    found: Any = None
    for i in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError as error:
            if error.name and ".".join(parts[:i]).startswith(error.name):
                continue
            raise UserError(f"{target} needs the package {error.name}, which is missing") from error
        for name in parts[i:]:
            if not hasattr(found, name):
                raise UserError(f"{target}: {'.'.join(parts[:i])} has no {name}")
            found = getattr(found, name)
        break
    home = getattr(found, "__module__", None)
    if not callable(found) or home is None or complaint(f"{home}.{parts[-1]}", allowed):
        raise UserError(f"{target} is not a class or function of an allowed package")
    return found
