"""The page of claims: every test and command that it names exists."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from llmexp.cli import COMMANDS
from llmexp.configure.compose import compose_jobs, open_keys

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8")
NODES = sorted(set(re.findall(r"tests/\w+\.py::\w+", PAGE)))
PATHS = sorted(set(re.findall(r"`((?:tests|conf|docs|llmexp)/[\w./]+)`", PAGE)))
SHOWN = re.findall(r"^    \$ llmexp (.*)$", PAGE, re.M)


def functions(file: str) -> dict[str, str]:
    """The tests of a file, each with its decorators as they are written."""
    source = (ROOT / file).read_text(encoding="utf-8")
    found = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: " ".join(map(ast.unparse, node.decorator_list)) for node in found}


def test_there_is_something_to_check() -> None:
    assert len(NODES) > 50 and len(SHOWN) == 4


@pytest.mark.parametrize("node", NODES)
def test_a_named_test_exists(node: str) -> None:
    file, _, name = node.partition("::")
    assert (ROOT / file).is_file() and name in functions(file)


@pytest.mark.parametrize("node", NODES)
def test_what_make_test_leaves_out_is_called_long(node: str) -> None:
    file, _, name = node.partition("::")
    line = next(line for line in PAGE.splitlines() if f"`{node}`" in line)
    decorators = functions(file)[name]
    assert ("*(long)*" in line) == (
        "mark.long" in decorators or "named(" in decorators or ("BY_ROWS" in decorators)
    )


@pytest.mark.parametrize("path", PATHS)
def test_a_named_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_composes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, *words = shlex.split(line)
    assert command in COMMANDS
    overrides = [word for word in words if "=" in word]
    if overrides:
        (job,) = compose_jobs(open_keys(overrides), "run", None, False)
        assert job.tree["data"]["train"]


def test_the_readme_leads_here() -> None:
    assert "](docs/correctness.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
