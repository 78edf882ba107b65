"""Code that a checkpoint brings along: it runs where a person says so, and only from a commit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from llmexp.configure.allow import widened

# A branch or a tag can move; a commit cannot.
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
GRANTED = "LLMEXP_TRUSTED_CODE"


def complaints(tree: dict[str, Any], typed: Callable[[str], bool]) -> list[str]:
    """A file may name a checkpoint with code in it; that the code runs, a person has to say."""
    model = tree.get("model")
    if not isinstance(model, dict) or not model.get("trust_remote_code"):
        return []
    place = f"{model.get('path')}@{model.get('revision')}"
    key = "model.trust_remote_code"
    if not typed(key) and not is_trusted(model.get("path"), model.get("revision")):
        return [
            f"{key}: runs the code of {place}; if you trust it, say {key}=true on the command "
            f"line, or LLMEXP_ALLOW={model.get('path')} in the environment"
        ]
    # The jobs, in processes of their own, read configs that could be anybody's; a sweep may have
    # several models. What is not pinned is refused (`llmexp.models`).
    if pinned(model.get("path"), model.get("revision")):
        os.environ[GRANTED] = " ".join(sorted({*_granted(), place}))
    return []


def pinned(path: Any, revision: Any) -> bool:
    """Whether a repository on the hub and one commit of it are named."""
    named = isinstance(path, str) and REPOSITORY.fullmatch(path) is not None
    return named and isinstance(revision, str) and COMMIT.fullmatch(revision) is not None


def is_trusted(path: Any, revision: Any) -> bool:
    """Whether a person has said that the code of this commit may run."""
    return pinned(path, revision) and (path in widened() or f"{path}@{revision}" in _granted())


def _granted() -> list[str]:
    """What a person has said so, by this process and those before it; no place holds a space."""
    return os.environ.get(GRANTED, "").split()
