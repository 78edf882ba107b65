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


def may_exist(dotted: str) -> bool:
    """False where the module's source is here and names no such thing."""
    module, _, name = dotted.rpartition(".")
    path = module_file(module)
    if path is None:
        top = module_file(module.split(".")[0])
        return top is None or top.suffix != ".py"
    return name in _names(path) or "*" in _names(path) or "__getattr__" in _names(path)


@cache
def _names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name):
            names.add(node.id)
    return names


def plain_types(dotted: str, argument: str) -> set[str] | None:
    """Which of int, float, bool, str, None an annotation names; None where it may mean more."""
    annotation = _annotations(dotted).get(argument)
    if annotation is None:
        return None
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    values = [node.value for node in ast.walk(annotation) if isinstance(node, ast.Constant)]
    if "Optional" in names or None in values:
        names.add("None")
    # An alias (_PRECISION_INPUT) or a quoted annotation may stand for anything.
    strange = {name for name in names if name.startswith("_")} | ({"Any", "Literal"} & names)
    plain = names & {"int", "float", "bool", "str", "None"}
    return plain if plain and not strange else None


def is_function(dotted: str, argument: str) -> bool:
    """Whether an annotation says that the argument is to be called."""
    annotation = _annotations(dotted).get(argument)
    nodes = ast.walk(annotation) if annotation is not None else ()
    return any(isinstance(node, ast.Name) and node.id == "Callable" for node in nodes)


@cache
def _annotations(dotted: str) -> dict[str, ast.expr]:
    found = _class(dotted)
    for item in found[0].body if found else ():
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            names = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
            return {a.arg: a.annotation for a in names if a.annotation is not None}
    return {}
