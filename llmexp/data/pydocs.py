"""Data that every Python carries: the documentation of its own standard library.

Source files are parsed, never imported. The test fifth is chosen by a hash of the text, so it
depends on no seed; another Python version has slightly different texts.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from llmexp.data.lines import Located
from llmexp.errors import UserError, did_you_mean

SYNTAX = "pydocs:(topics|instruct|text):(train|test)"
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
AREAS = {
    "concurrency": "asyncio concurrent multiprocessing queue sched selectors subprocess threading",
    "files": "bz2 fileinput filecmp fnmatch genericpath glob gzip lzma ntpath pathlib posixpath "
    "shutil stat tarfile tempfile zipapp zipfile",
    "internet": "ftplib http ipaddress socket socketserver ssl urllib webbrowser wsgiref xmlrpc",
    "language": "abc ast dataclasses dis enum importlib inspect pkgutil symtable tokenize typing",
    "mail": "email imaplib mailbox poplib smtplib",
    "numbers": "_pydecimal bisect fractions heapq numbers random statistics",
    "testing": "bdb cProfile doctest pdb profile pstats trace traceback unittest",
    "text": "codecs configparser csv difflib gettext html json locale re string textwrap",
}
AREA_OF = {module: area for area, modules in AREAS.items() for module in modules.split()}
SHORTEST, LONGEST = 80, 600
DESCRIBE = "Describe what this Python function does."
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read_pydocs(locator: str) -> Iterator[Located]:
    """(where, raw row) of `pydocs:KIND:SPLIT`."""
    scheme, _, rest = locator.partition(":")
    kind, _, split = rest.partition(":")
    if kind not in KINDS:
        raise UserError(f"{locator}: no documentation set {kind!r}; {did_you_mean(kind, KINDS)}")
    if split not in ("train", "test"):
        raise UserError(f"{locator}: no split {split!r}; known are test, train")
    for number, row in enumerate(KINDS[kind](), start=1):
        if in_test(row) == (split == "test"):
            yield f"{scheme}:{kind}: row {number}", dict(row)


def in_test(row: dict[str, str]) -> bool:
    """Whether a row belongs to the test fifth, by what it says alone."""
    content = row.get("text") or row["input"]
    return int(hashlib.sha256(content.encode()).hexdigest()[:8], 16) % 5 == 0


@cache
def _topics() -> tuple[dict[str, str], ...]:
    found: dict[str, str] = {}
    for module, nodes in _modules(wanted=AREA_OF):
        for node, text in nodes:
            text = _opening(text)
            if len(text) >= SHORTEST and not getattr(node, "name", "").startswith("_"):
                found.setdefault(text, AREA_OF[module])
    return tuple({"text": text, "label": area} for text, area in found.items())


@cache
def _instruct() -> tuple[dict[str, str], ...]:
    found: dict[str, dict[str, str]] = {}
    for _, nodes in _modules():
        for node, text in nodes:
            answer = " ".join(text.split("\n\n")[0].split())
            if _is_public_function(node) and 20 <= len(answer) <= 300:
                row = {"instruction": DESCRIBE, "input": _signature(node), "output": answer}
                found.setdefault(answer, row)
    # A signature with two descriptions would have no right answer.
    return tuple({row["input"]: row for row in found.values()}.values())


@cache
def _text() -> tuple[dict[str, str], ...]:
    seen: set[str] = set()
    documents = []
    for _, nodes in _modules():
        fresh = [text for _, text in nodes if text not in seen]
        seen.update(fresh)
        documents.append("\n\n".join(fresh))
    documents += _language_reference()
    return tuple({"text": text} for text in documents if len(text) >= SHORTEST)


def _modules(wanted: dict[str, Any] | None = None) -> Iterator[tuple[str, list]]:
    """(top-level module, its documented nodes with their texts) of each source file."""
    root = Path(sysconfig.get_path("stdlib"))
    for folder, names, files in os.walk(root):
        names[:] = sorted(set(names) - SKIPPED)
        for name in sorted(f for f in files if f.endswith(".py")):
            path = Path(folder, name)
            module = path.relative_to(root).parts[0].removesuffix(".py")
            if wanted is None or module in wanted:
                yield module, list(_documented(path))


def _documented(path: Path) -> Iterator[tuple[Documented, str]]:
    """Each module, class and function with a docstring, in file order."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop(0)
        text = ast.get_docstring(node)  # type: ignore[arg-type]
        if text:
            yield node, text  # type: ignore[misc]
        waiting += [child for child in node.body if isinstance(child, Documented)]  # type: ignore


def _opening(text: str) -> str:
    """The first paragraphs, up to LONGEST characters; at least one."""
    kept, *rest = text.split("\n\n")
    for paragraph in rest:
        if len(kept) + len(paragraph) > LONGEST:
            break
        kept += "\n\n" + paragraph
    return kept[:LONGEST].strip()


def _is_public_function(node: Documented) -> bool:
    function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    return function and not node.name.startswith("_")  # type: ignore[union-attr]


def _signature(node: Any) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}"


def _language_reference() -> list[str]:
    """The topics that `help()` shows, read from the file that holds them as one literal."""
    path = Path(sysconfig.get_path("stdlib"), "pydoc_data", "topics.py")
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return [text.strip() for text in ast.literal_eval(node.value).values()]
    return []


KINDS: dict[str, Callable[[], tuple[dict[str, str], ...]]] = {
    "topics": _topics,
    "instruct": _instruct,
    "text": _text,
}
