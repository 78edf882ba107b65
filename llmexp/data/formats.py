"""Canonical rows: what a raw row of any source becomes before a task sees it.

classification {"text", "label"[, "text_pair"]}; instruction {"messages": [{"role", "content"}]};
language modeling {"text"}.
"""

from __future__ import annotations

from typing import Any

from llmexp.data.columns import label_of, text_of, with_pattern
from llmexp.data.conversations import BUILDERS, FORMATS, turn_of
from llmexp.data.lines import RawRow, shown
from llmexp.errors import UserError
from llmexp.tasks.base import Row, Task


def classification_row(raw: RawRow, task: Task, where: str) -> Row:
    """{"text", "label"} and, where there is one, "text_pair"."""
    raw = with_pattern(raw, task, where)
    row = {"text": text_of(raw, task, "text", where), "label": label_of(raw, task, where)}
    if "text_pair" in task.columns or "text_pair" in raw:
        row["text_pair"] = text_of(raw, task, "text_pair", where)
    return row


def text_row(raw: RawRow, task: Task, where: str) -> Row:
    """{"text"}."""
    raw = with_pattern(raw, task, where)
    return {"text": text_of(raw, task, "text", where)}


def instruction_row(raw: RawRow, task: Any, where: str) -> Row:
    """{"messages"}: an optional system turn, then turns that end with the assistant's."""
    raw = with_pattern(raw, task, where)
    messages = BUILDERS[chosen_format(raw, task, where)](raw, task, where)
    if task.system is not None and messages[0]["role"] != "system":
        messages = [turn_of("system", task.system), *messages]
    if messages[-1]["role"] != "assistant":
        raise UserError(f"{where}: the last turn must be the assistant's: {shown(messages[-1])}")
    return {"messages": messages}


def chosen_format(raw: RawRow, task: Any, where: str) -> str:
    """The row format of an instruction task: as `data.format` says, else by its columns."""
    if task.prompt is not None:
        return "prompt_completion"
    if task.format != "auto":
        return task.format
    for name, needed in FORMATS.items():
        if all(task.columns.get(role, role) in raw for role in needed):
            return name
    known = "; ".join(f"{name} ({', '.join(needed)})" for name, needed in FORMATS.items())
    raise UserError(
        f"{where}: cannot tell the format from the columns {', '.join(raw)}; known formats are "
        f"{known}; map names with data.columns or set data.prompt"
    )


def format_note(raw: RawRow, task: Any, where: str) -> str | None:
    """What was detected, for a task that has a format to detect."""
    if getattr(task, "format", None) != "auto" or task.prompt is not None:
        return None
    raw = with_pattern(raw, task, where)
    name = chosen_format(raw, task, where)
    return f"format {name} detected from the columns {', '.join(raw)}; data.format overrides it"
