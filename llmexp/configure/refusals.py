"""What Hydra refuses, as sentences that name the nearest valid key (hydra #1912)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, QuotedString, ValueType
from hydra.errors import MissingConfigException
from omegaconf import AnyNode, DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError

from llmexp.config import RunConfig
from llmexp.errors import did_you_mean

Search = tuple[Path, ...]


def key_of(line: str) -> str:
    """The key that an override is about."""
    return line.split("=")[0].lstrip("+~")


def first_line(error: BaseException) -> str:
    """What it says; where Hydra wrapped another in one that says nothing, what that one says."""
    said: BaseException | None = error
    while said is not None and not str(said).strip():
        said = said.__cause__
    return str(said or type(error).__name__).strip().splitlines()[0]


def misspelt(line: str) -> str:
    """An override that does not parse."""
    return (
        f"command line: {line.lstrip('+')}: not of the form key=value; quote values that hold "
        "spaces, commas, brackets or braces"
    )


def misused(override: Override, search: Search, sweeping: bool) -> str | None:
    """What Hydra would answer with a trace, or with a sentence about itself."""
    line, key = str(override.input_line).lstrip("+"), override.key_or_group
    options = options_of(key, search)
    if not key:
        return misspelt(line)
    if key == "hydra.searchpath":
        return f"command line: {line}: --config-dir FOLDER adds a folder of YAML"
    if override.is_delete():
        needed = options or key in RunConfig.__annotations__
        return f"command line: {line}: every run needs {key}; give it a value" if needed else None
    plain = not override.is_sweep_override() or override.is_choice_sweep()
    value = override.value() if plain else None  # no range and no glob has one
    if not all(map(_refers, getattr(value, "list", [value]))):
        return f"command line: {line}: ${{ begins a reference that is none: write ${{KEY}}"
    globbed = override.value_type == ValueType.GLOB_CHOICE_SWEEP
    if globbed and not list(override.sweep_string_iterator()):
        known = f"known are {', '.join(options)}" if options else f"{key} is no group of files"
        return f"command line: {line}: matches nothing; {known}"
    if override.is_sweep_override():
        many = f"command line: {line}: several values need -m, one job for each"
        return None if sweeping else many
    if options and not isinstance(value, str):
        return f"command line: {line}: {key} takes one of {', '.join(options)}"
    return None


def _refers(value: Any) -> bool:
    """Every ${ of a text is a whole reference: of a group's choice, Hydra says so with a trace."""
    text = value.text if isinstance(value, QuotedString) else value
    try:
        AnyNode(text if isinstance(text, str) else None)
    except GrammarParseError:
        return False
    return True


def options_of(group: str, search: Search) -> list[str]:
    """The YAML files of a group; none where there is no such group."""
    found = {p.stem for root in search for p in (root / group).glob("*.yaml")}
    return sorted(found) if group and "." not in group else []


def culprit(error: Exception, overrides: Iterable[str]) -> str | None:
    """The override that Hydra's message is about, if it is about one."""
    text = str(error)
    for line in overrides:
        key = key_of(line)
        option = line.lstrip("+~").partition("=")[2]
        if f"'{key}'" in text or f"'{key}/{option}'" in text or line in text:
            return line
        if re.search(rf"(override|merging|full_key:) '?{re.escape(key)}\b", text):
            return line
    return None


def below_null(line: str) -> str:
    """An override of a key inside a node that is null."""
    key, _, value = line.lstrip("+~").partition("=")
    if key.startswith("hydra.sweeper.params"):
        hint = "a sweep is -m KEY=A,B on the command line, or a file of conf/sweep/"
    else:
        parent, _, leaf = key.rpartition(".")
        hint = f"give the whole node: {parent or key}={{{leaf}: {value}}}"
    return f"command line: {line.lstrip('+')}: lies in a node that is null; {hint}"


def missing_config(error: MissingConfigException, guilty: str | None, search: Search) -> str:
    """A group option, or a group, that is not there."""
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    wanted = re.search(r"Could not load '(.*)/(.*)'", str(error))
    if wanted:
        group, option = wanted[1], wanted[2]
    options = options_of(group, search)
    place = f"command line: {guilty}" if guilty else "conf"
    if not options:
        return f"{place}: {first_line(error)}"
    hint = did_you_mean(option, options)
    more = not hint.startswith("known") and len(options) > 1
    every = f" Known are {', '.join(options)}" if more else ""
    return f"{place}: {group} has no {option}.yaml; {hint}{every}"


def unreadable(error: Exception) -> str:
    """A file of a group that is no YAML."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"conf: a YAML file is not text in UTF-8: {error}"
    return f"{mark.name}:{mark.line + 1}: not valid YAML: {getattr(error, 'problem', error)}"


def unknown_key(key: str, cfg: DictConfig) -> str | None:
    """The nearest keys of the deepest node that is there; None where the key is there too."""
    parent, _, leaf = key.rpartition(".")
    known = _keys_below(cfg, parent)
    while parent and not known:
        parent, _, leaf = parent.rpartition(".")
        known = _keys_below(cfg, parent)
    if leaf in known:
        return None
    inside = f" in {parent}" if parent else ""
    return f"command line: {key}: there is no key {leaf}{inside}; {did_you_mean(leaf, known)}"


def _keys_below(cfg: DictConfig, parent: str) -> list[str]:
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return []
    names = [str(key) for key in node if key != "_target_"]
    return names if parent else [n for n in names if n not in ("hydra", "choices")]


def unresolved(error: Exception, overrides: Iterable[str]) -> str:
    """An interpolation that leads nowhere, at the override or the key that holds it."""
    said = first_line(error)
    wanted = re.search(r"'([^']+)'", said)
    for line in overrides:
        if wanted and "${" in line and wanted[1] in line:
            return f"command line: {line.lstrip('+')}: {said}"
    place = re.search(r"full_key: (\S+)", str(error))
    return f"conf: {place[1]}: {said}" if place else f"conf: {said}"
