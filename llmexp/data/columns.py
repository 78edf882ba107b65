"""What a column holds for a role: `data.columns`, `data.pattern` and types, all checked."""

from __future__ import annotations

import re
from typing import Any

from llmexp.data.lines import RawRow, shown
from llmexp.errors import UserError, did_you_mean
from llmexp.tasks.base import Task

ROLES = {
    "classification": ("text", "text_pair", "label"),
    "instruction": (
        "instruction",
        "input",
        "output",
        "prompt",
        "completion",
        "messages",
        "conversations",
        "system",
        "text",
    ),
    "language_modeling": ("text",),
}


def parse_pattern(pattern: str) -> re.Pattern[str]:
    """The compiled pattern, or a sentence about what is wrong with it."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.pattern: {pattern!r} is no regular expression ({error})") from None
    if not compiled.groupindex:
        raise UserError(f"data.pattern: {pattern!r} has no named groups, as in (?P<text>.*)")
    return compiled


def with_pattern(raw: RawRow, task: Task, where: str) -> RawRow:
    """The row that `data.pattern` reads out of the text column; line readers have done so."""
    if task.pattern is None:
        return raw
    pattern = re.compile(task.pattern)
    if set(pattern.groupindex) <= set(raw):
        return raw
    text = text_of(raw, task, "text", where)
    match = pattern.fullmatch(text)
    if match is None:
        raise UserError(f"{where}: data.pattern does not match this text: {shown(text)}")
    return {**raw, **match.groupdict()}


def column(raw: RawRow, task: Task, role: str, where: str) -> Any:
    """The value of a role's column, or a sentence that names the columns there are."""
    name = task.columns.get(role, role)
    if name in raw:
        return raw[name]
    raise UserError(
        f"{where}: there is no column {name!r} for data.columns.{role} in {shown(raw)}; the "
        f"columns are {', '.join(map(str, raw))}; {did_you_mean(name, map(str, raw))}"
    )


def text_of(raw: RawRow, task: Task, role: str, where: str) -> str:
    value = column(raw, task, role, where)
    if value is None:
        return ""
    if not isinstance(value, str):
        name = task.columns.get(role, role)
        raise UserError(
            f"{where}: column {name!r}: expected text, found {type(value).__name__} {shown(value)}"
        )
    return value


def label_of(raw: RawRow, task: Task, where: str) -> str:
    value = column(raw, task, "label", where)
    name = task.columns.get("label", "label")
    if value is None or value == "":
        raise UserError(f"{where}: column {name!r}: the label is missing: {shown(raw)}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int)):
        raise UserError(
            f"{where}: column {name!r}: expected a class name or a whole number, found "
            f"{type(value).__name__} {shown(value)}"
        )
    return str(value).strip()
