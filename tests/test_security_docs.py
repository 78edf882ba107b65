"""docs/security.md claims nothing that no test shows; versions with known holes stay out."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
HOLES = {
    "hydra-core": ["1.3.0", "1.3.2", "1.3.7"],
    "pytorch-lightning": ["2.5.0", "2.6.2", "2.6.3", "2.6.5"],
    "torch": ["2.5.1", "2.6.0", "2.9.1"],
}


def test_every_claim_names_a_test_that_is_there() -> None:
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", PAGE)
    assert len(named) >= 12
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, test


def test_the_readme_leads_there() -> None:
    assert "(docs/security.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", HOLES)
def test_versions_with_known_holes_cannot_be_installed(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (needed,) = (r for r in map(Requirement, project["dependencies"]) if r.name == package)
    assert not [hole for hole in HOLES[package] if needed.specifier.contains(hole)]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (pinned,) = re.findall(rf"^{package}==(\S+)", pins, re.MULTILINE)
    assert needed.specifier.contains(pinned)
    assert needed.specifier.contains(Version(version(package)).public)
