"""Where a configuration may write: below roots that the user chose, never where a file points."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llmexp.configure.allow import named

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
# Keys whose values our classes and Lightning's take for a folder or a file to write.
WRITTEN = ("dir", "dirpath", "folder", "save_dir", "log_dir", "submitit_folder", "filename")
Typed = Callable[[str], bool]


def complaints(cfg: DictConfig, tree: dict[str, Any], typed: Typed) -> list[str]:
    """One sentence for each place outside the roots that a file, not a person, asks to write.

    `typed(key)`: whether the value was given on the command line, where it may be any folder.
    """
    if not NAME.fullmatch(str(tree.get("name"))):
        return []  # said of the name itself, before any folder is made
    found = list(_places(cfg, tree))
    allowed = [*roots(), *(Path(place) for key, place in found if typed(key) and place)]
    said = [
        f"{key}: {place} lies outside this folder, and a file may not choose that; give it on "
        f"the command line, or start with LLMEXP_ROOT=FOLDER in the environment"
        for key, place in found
        if not typed(key) and not is_below(place, allowed)
    ]
    return said + _names(cfg)


def of_run(tree: dict[str, Any], folder: Path) -> list[str]:
    """The same for a recorded run, which may be anybody's: it writes into its own folder, too.

    The caches are left out: what is written there is of our own making, under names of our own.
    """
    allowed = [folder, *roots()]
    return [
        f"{folder.name}/config.yaml: {key}: {value} lies outside the run and this folder; "
        f"{_permit(value)}"
        for part in ("callbacks", "trainer", "tracking")
        for key, name, value in named(tree.get(part), part)
        if name in WRITTEN and isinstance(value, str) and not is_below(value, allowed)
    ]


def _permit(place: str) -> str:
    if is_address(place):
        return "to write there, go on with the run's own command, its resume_command"
    return f"if it may write there, start with LLMEXP_ROOT={place} in the environment"


def roots() -> list[Path]:
    """The folder one stands in, the caches, and the ones that LLMEXP_ROOT adds."""
    added = os.environ.get("LLMEXP_ROOT", "").split(os.pathsep)
    chosen = [*added, os.environ.get("LLMEXP_CACHE")]
    return [Path.cwd(), Path("~/.cache").expanduser(), *(Path(c) for c in chosen if c)]


def is_below(place: str, allowed: list[Path]) -> bool:
    """Whether a path stays under one of the roots, once links and dots are followed.

    An address stays under none: Lightning writes through fsspec, to which it is no folder of that
    name here but another place, on this machine too (`file://`), or several in a chain (`::`).
    """
    if "\0" in place or len(place) > 4096 or is_address(place):
        return False
    whole = Path(place).expanduser().resolve()
    return any(whole.is_relative_to(root.expanduser().resolve()) for root in allowed)


def is_address(place: str) -> bool:
    return "://" in place or "::" in place


def _places(cfg: DictConfig, tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        place = _looked_up(cfg, key)
        if place is not None:
            yield key, place
    launcher: Any = OmegaConf.to_container(cfg.hydra, resolve=False)
    for key, name, _ in named(launcher.get("launcher"), "hydra.launcher"):
        if name in WRITTEN and (place := _looked_up(cfg, key)) is not None:
            yield key, place
    for key, name, value in named(tree):
        if name in WRITTEN and isinstance(value, str):
            yield key, value


def _looked_up(cfg: DictConfig, key: str) -> str | None:
    try:
        value = OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return None
    return None if value is None else str(value)


def _names(cfg: DictConfig) -> list[str]:
    """Folders below a run's own, which no dots and no separators may lead out of."""
    found = []
    inside = _looked_up(cfg, "hydra.output_subdir")
    if inside not in (None, ".hydra") and not NAME.fullmatch(str(inside)):
        found.append(f"hydra.output_subdir: {inside} is no folder's name; null writes none")
    job = _job_folder(cfg)
    if job is not None and (Path(job).is_absolute() or ".." in Path(job).parts):
        found.append(f"hydra.sweep.subdir: {job} climbs out of the sweep's folder")
    return found


def _job_folder(cfg: DictConfig) -> str | None:
    """The folder of a sweep's first job; a job has no number yet."""
    raw: Any = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    text = re.sub(r"\$\{hydra[.:]job\.(num|id)\}", "0", str(raw.get("subdir")))
    numbered = cfg.copy()
    for node in (numbered, numbered.hydra, numbered.hydra.sweep):
        OmegaConf.set_readonly(node, False)
    numbered.hydra.sweep.subdir = text
    return _looked_up(numbered, "hydra.sweep.subdir")
