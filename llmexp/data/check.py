"""What can be said against a data node in milliseconds, without reading its rows."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from llmexp.configure import allow
from llmexp.data import pydocs
from llmexp.data.columns import ROLES, parse_pattern
from llmexp.data.hub import HubSet
from llmexp.data.readers import missing_file, unreadable_kind
from llmexp.data.stream_check import task_complaints, unread_by
from llmexp.errors import UserError, did_you_mean
from llmexp.tasks.base import Task

SPLITS = ("train", "validation", "test")
SCHEMES = ("hub", "pydocs", "python", "specimens")


def quick_check(task: Task) -> list[str]:
    """Complaints, each `data.key: sentence`; opens no file and imports nothing heavy."""
    complaints = []
    for name in ("train", "validation", "test"):
        locator = getattr(task, name)
        if locator is not None:
            problem = _locator_problem(locator, task)
            complaints += [f"data.{name}: {problem}"] if problem else []
    complaints += _pattern_problems(task) + _column_problems(task)
    try:
        codecs.lookup(task.encoding)
    except LookupError:
        complaints.append(f"data.encoding: Python knows no encoding {task.encoding!r}")
    if task.delimiter is not None and len(task.delimiter.replace("\\t", "\t")) != 1:
        complaints.append(f"data.delimiter: must be one character, not {task.delimiter!r}")
    if not task.header and not task.names:
        complaints.append("data.names: with data.header=false the columns need names")
    if task.validation_fraction + task.test_fraction >= 1:
        complaints.append("data: validation_fraction and test_fraction leave no train rows")
    return complaints + _fraction_problems(task) + task_complaints(task)


def _fraction_problems(task: Task) -> list[str]:
    """A split that no source gives and that nothing is carved for."""
    return [
        f"data.{name}: the split is empty; give data.{name} a source or use "
        f"data.{name}_fraction=0.1"
        for name in ("validation", "test")
        if getattr(task, name) is None
        and getattr(task, f"{name}_fraction") == 0
        and not task.streaming
    ]


def _locator_problem(locator: str, task: Task) -> str | None:
    path = Path(locator)
    scheme, colon, rest = locator.partition(":")
    if path.is_file():
        return unreadable_kind(path, task)
    if not colon or len(scheme) < 2 or not scheme.isidentifier():
        return missing_file(path)
    if scheme == "hub":
        return _hub_problem(locator)
    if scheme == "pydocs" and not re.fullmatch(pydocs.SYNTAX, locator):
        return f"{locator}: not of the form {pydocs.SYNTAX}"
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}:" for name in SCHEMES)
        return f"{locator}: a source is a file or starts with one of {known}"
    if scheme == "specimens" and rest not in SPLITS:
        return f"{locator}: no such split; known are {', '.join(SPLITS)}"
    if scheme == "python" and rest:
        why = allow.complaint(rest, allow.widened())
        return f"{locator}: {why}" if why else None
    return None if rest else f"{locator}: nothing is named after the colon"


def _hub_problem(locator: str) -> str | None:
    try:
        HubSet.parse(locator)
    except UserError as error:
        return str(error)
    return None


def _pattern_problems(task: Task) -> list[str]:
    if task.pattern is None:
        return []
    try:
        groups = parse_pattern(task.pattern).groupindex
    except UserError as error:
        return [str(error)]
    needed = REQUIRED.get(task.kind, ())
    names = [task.columns.get(role, role) for role in needed]
    return [
        f"data.pattern: has no group (?P<{name}>...); its groups are {', '.join(groups)}"
        for name in names
        if name not in groups
    ]


def _column_problems(task: Task) -> list[str]:
    roles = ROLES.get(task.kind)
    if roles is None:
        return []
    return [
        f"data.columns.{role}: a {task.kind} task has no such column; {did_you_mean(role, roles)}"
        for role in task.columns
        if role not in roles
    ]


def unread(task: Task) -> dict[str, str]:
    """Fields that nothing reads as the others are set, and why."""
    given = {name: getattr(task, name) for name in SPLITS if getattr(task, name) is not None}
    files = [Path(where) for where in given.values() if Path(where).is_file()]
    endings = {path.suffix.lower() for path in files}
    held_out = [name for name in ("validation", "test") if name in given]
    found = {f"{name}_fraction": f"data.{name} is given" for name in held_out}
    if len(given) == len(SPLITS) and task.limit == type(task.limit)():
        found["split_seed"] = "every split is given and none is limited"
    if not endings & {".csv", ".tsv"}:
        why = "no source is a csv or tsv file"
        found |= dict.fromkeys(("delimiter", "quoting", "header", "names"), why)
    if not endings - {".parquet"}:
        found["encoding"] = "no source is a text file"
    found |= unread_by(task)
    if endings and len(files) == len(given) and not endings - {".txt"} and task.pattern is None:
        why = "a .txt file has no rows that could be bad"
        found |= dict.fromkeys(("on_bad_row", "max_bad_rows"), why)
    elif task.on_bad_row == "raise":
        found["max_bad_rows"] = "data.on_bad_row=raise stops at the first"
    return found


REQUIRED = {"classification": ("text", "label"), "language_modeling": ("text",)}
