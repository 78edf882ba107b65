"""Argument names of third-party classes, read from their source without importing them.

Importing Lightning costs seconds; a misspelt Trainer argument should cost milliseconds.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path


@cache
def module_file(module: str) -> Path | None:
    """The source file of a dotted module, found without importing its parents."""
    top, *rest = module.split(".")
    found = PathFinder.find_spec(top)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin)
    for part in rest:
        base = path.parent / part
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if not path.is_file():
            return None
    return path


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _class(dotted: str, depth: int = 0) -> tuple[ast.ClassDef, str] | None:
    """The definition of a class and its module, following re-exports."""
    module, _, name = dotted.rpartition(".")
    path = module_file(module)
    if path is None or depth > 6:
        return None
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _class(f"{node.module}.{alias.name}", depth + 1)
    return None


def arguments(dotted: str) -> set[str] | None:
    """Keyword names the class's constructor takes, or None where the source does not tell.

    None means a `**kwargs`, a class that is not found, or a base outside reach.
    """
    found = _class(dotted)
    if found is None:
        return None
    node, module = found
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            if item.args.kwarg is not None:
                return None
            names = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
            return {a.arg for a in names} - {"self"}
    for base in node.bases:
        if isinstance(base, ast.Name):
            return arguments(f"{module}.{base.id}")
    return None
