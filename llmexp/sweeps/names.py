"""Folders of sweeps and jobs, named by their overrides: the same command finds them again.

Every name matches `[A-Za-z0-9][A-Za-z0-9._-]{0,79}`: readable words, then a short hash.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from llmexp.secrets import masked, recorded
from llmexp.sweeps.identity import NOISE, identity

if TYPE_CHECKING:
    from llmexp.configure.composed import Composed

VARIABLE = "LLMEXP_SWEEP"
READABLE = 60
# How a sweep is carried out, and how far, makes no other sweep of it.
CARRIED_OUT = (
    *("hydra.launcher.", "hydra/launcher.", "hydra.sweep.", "hydra.run.", "hydra.job."),
    *("hydra.sweeper.n_trials.", "hydra.sweeper.prune.", "hydra.sweeper.startup_trials."),
)
HASH = 6


def override(line: str) -> tuple[str, str]:
    """Key and value of an override line, without Hydra's marks."""
    key, _, value = line.lstrip("+~").partition("=")
    return key, value


def shown(line: str) -> str:
    """An override as it may be written down: without Hydra's marks, and without secrets."""
    key, value = override(line)
    return f"{key}={_masked(key, value)}"


def _masked(key: str, value: str) -> str:
    return str(masked(value, key.rpartition(".")[2]))


def sweep_name(overrides: Sequence[str], *places: str | None) -> str:
    """The name of the sweep that these overrides ask for, whatever their order."""
    pairs = [override(line) for line in overrides if line.partition("=")[1]]
    pairs = [p for p in pairs if p[0].split(".")[0] not in NOISE - {"hydra"}]
    pairs = [p for p in pairs if not f"{p[0]}.".startswith(CARRIED_OUT)]
    several = re.compile(r",|^(range|interval|choice|glob|tag|shuffle|sort)\(")
    swept = [p for p in pairs if p[0] == "sweep" or several.search(p[1])]
    return _named(swept or pairs, repr((sorted(pairs), *places)), "sweep")


def job_name(root: DictConfig) -> str:
    """The name of a composed job: what it alone sets, and its identity."""
    with_all = root.hydra.overrides.task
    same = set(root.hydra.job.config.override_dirname.exclude_keys)
    pairs = [pair for pair in map(override, with_all) if pair[0] not in same]
    return _named(pairs, identity(tree_of(root)), "job")


def tell_apart(jobs: Sequence[Composed]) -> str:
    """The override that keeps what all jobs share out of their names."""
    said = [{override(line) for line in job.overrides} for job in jobs]
    same = {key for key, _ in set.intersection(*said) if not key.startswith("hydra")}
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(sorted(same))}]"


def tree_of(root: DictConfig) -> dict[str, Any]:
    """The experiment in a composed config, as it is recorded; Hydra's own node is left out."""
    keys = [str(key) for key in root if key != "hydra"]
    return recorded(OmegaConf.masked_copy(root, keys))


def _named(pairs: Iterable[tuple[str, str]], facts: str, otherwise: str) -> str:
    pairs = [(key, _masked(key, value)) for key, value in pairs]
    leaves = [key.rpartition(".")[2] for key, _ in pairs]
    words = []
    for (key, value), leaf in zip(pairs, leaves, strict=True):
        short = leaf if leaves.count(leaf) == 1 else key
        words.append(_plain(value if short == "sweep" else f"{short}-{value}"))
    readable = "_".join(word for word in words if word)[:READABLE].strip("._-")
    code = hashlib.sha256(facts.encode()).hexdigest()[:HASH]
    return f"{readable or otherwise}_{code}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text.replace("_", "-")).strip("-.")


def remember(name: str) -> None:
    """Let `${llmexp.sweep:}` be this name, in this process and in those it starts."""
    os.environ[VARIABLE] = name


# A worker of joblib gets Hydra's copies of these before it imports this.
OmegaConf.register_new_resolver(
    "llmexp.sweep", lambda: os.environ.get(VARIABLE, "sweep"), replace=True
)
OmegaConf.register_new_resolver("llmexp.job", lambda _root_: job_name(_root_), replace=True)
