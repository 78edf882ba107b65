"""Which code a YAML file may name: `_target_` is code execution, so Python decides, never YAML.

A user widens the list with the environment variable `LLMEXP_ALLOW=package,other.module` or by
installing a package that declares an entry point in the group `llmexp.plugins`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
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
    "hydra._internal.core_plugins",
    "hydra_plugins.llmexp_sweeps",
    "hydra_plugins.hydra_joblib_launcher",
    "hydra_plugins.hydra_submitit_launcher",
    "hydra_plugins.hydra_colorlog",
)
LOGGING_CLASSES = ("logging.", "colorlog.")
DOTTED = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")


def allowed_prefixes() -> tuple[str, ...]:
    """Everything that may be named: built in, from the environment, from installed plugins."""
    from_environment = [p.strip() for p in os.environ.get("LLMEXP_ALLOW", "").split(",")]
    from_plugins = [point.module for point in entry_points(group="llmexp.plugins")]
    return (*BUILT_IN, *(p for p in (*from_environment, *from_plugins) if p))


def _under(target: str, prefixes: tuple[str, ...]) -> bool:
    return any(target == p or target.startswith(p + ".") for p in prefixes)


def complaint(target: Any, inside_hydra: bool = False) -> str | None:
    """Why `target` may not be named, or None; looks at the string only, imports nothing."""
    if not isinstance(target, str) or not DOTTED.match(target):
        return f"{target!r} is not the dotted name of a class"
    prefixes = HYDRA_OWN + allowed_prefixes() if inside_hydra else allowed_prefixes()
    if _under(target, prefixes):
        return None
    package = target.split(".")[0]
    return (
        f"{target} is not on the allow-list; if you trust the package, start the run with "
        f"LLMEXP_ALLOW={package} in the environment"
    )


def targets(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every (key, `_target_` value) in a plain tree."""
    if isinstance(node, dict):
        for name, value in node.items():
            here = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                yield here, value
            yield from targets(value, here)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from targets(value, f"{key}[{i}]")


def logging_classes(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every class a logging dictConfig would import (`class` and `()` keys)."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("class", "()") and isinstance(value, str):
                yield f"{key}.{name}", value
            yield from logging_classes(value, f"{key}.{name}")


def complaints(tree: dict[str, Any], hydra: dict[str, Any] | None = None) -> list[str]:
    """One sentence for each forbidden name in the experiment tree and in Hydra's own node."""
    found = [f"{key}: {why}" for key, t in targets(tree) if (why := complaint(t))]
    if hydra:
        found += [f"hydra.{k}: {why}" for k, t in targets(hydra) if (why := complaint(t, True))]
        for part in ("job_logging", "hydra_logging"):
            found += [
                f"hydra.{key}: {cls} is not a logging class"
                for key, cls in logging_classes(hydra.get(part), part)
                if not cls.startswith(LOGGING_CLASSES)
            ]
    return found


def resolve(target: str) -> Any:
    """Import what `target` names; its own home must be allowed too, not only the road to it.

    `llmexp.models.os.system` is refused: the road is ours, the home is `posix`.
    """
    why = complaint(target)
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
    if not callable(found) or home is None or complaint(f"{home}.{parts[-1]}"):
        raise UserError(f"{target} is not a class or function of an allowed package")
    return found
