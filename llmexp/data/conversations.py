"""The ways instruction data is written down, each turned into role and content messages."""

from __future__ import annotations

import json
import re
from typing import Any

from llmexp.data.columns import column, text_of
from llmexp.data.lines import RawRow, shown
from llmexp.errors import UserError, did_you_mean
from llmexp.tasks.base import Task

# Format -> the columns that give it away; the first whose columns are all there is detected.
FORMATS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
}
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}


def turn_of(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _optional(raw: RawRow, task: Task, role: str, where: str) -> str:
    present = role in task.columns or role in raw
    return text_of(raw, task, role, where).strip() if present else ""


def _pair(raw: RawRow, task: Any, where: str, user: str, answer: str) -> list[dict[str, str]]:
    system = _optional(raw, task, "system", where)
    opening = [turn_of("system", system)] if system else []
    return [*opening, turn_of("user", user), turn_of("assistant", answer)]


def _alpaca(raw: RawRow, task: Any, where: str) -> list[dict[str, str]]:
    user = text_of(raw, task, "instruction", where)
    more = _optional(raw, task, "input", where)
    answer = text_of(raw, task, "output", where)
    return _pair(raw, task, where, f"{user}\n\n{more}" if more else user, answer)


def _prompt_completion(raw: RawRow, task: Any, where: str) -> list[dict[str, str]]:
    answer = text_of(raw, task, "completion", where)
    if task.prompt is None:
        return _pair(raw, task, where, text_of(raw, task, "prompt", where), answer)
    return _pair(raw, task, where, _filled(task.prompt, raw, where), answer)


def _filled(prompt: str, raw: RawRow, where: str) -> str:
    # Plain replacement: str.format would let a template reach into attributes and choke on braces.
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]  # {{ and }} stand for one brace
        if name not in raw:
            raise UserError(
                f"{where}: data.prompt names a column {name!r}; {did_you_mean(name, map(str, raw))}"
            )
        return "" if raw[name] is None else str(raw[name])

    return re.sub(r"\{\{|\}\}|\{(\w+)\}", value, prompt)


def _messages(raw: RawRow, task: Any, where: str) -> list[dict[str, str]]:
    return _conversation(raw, task, where, "messages", "role", "content")


def _sharegpt(raw: RawRow, task: Any, where: str) -> list[dict[str, str]]:
    return _conversation(raw, task, where, "conversations", "from", "value")


def _conversation(
    raw: RawRow, task: Any, where: str, role: str, who: str, what: str
) -> list[dict[str, str]]:
    turns = column(raw, task, role, where)
    if isinstance(turns, str):  # csv and some parquet files hold the list as JSON
        try:
            turns = json.loads(turns)
        except ValueError:
            raise UserError(f"{where}: column {role!r} is not a list: {shown(turns)}") from None
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: column {role!r}: expected a list of turns, found {shown(turns)}")
    return [_spoken(turn, where, who, what) for turn in turns]


def _spoken(turn: Any, where: str, who: str, what: str) -> dict[str, str]:
    if not isinstance(turn, dict) or not isinstance(turn.get(what), str):
        raise UserError(f"{where}: a turn needs {who!r} and {what!r} as text, found {shown(turn)}")
    speaker = SPEAKERS.get(str(turn.get(who)).lower())
    if speaker is None:
        raise UserError(
            f"{where}: unknown speaker {turn.get(who)!r}; known are {', '.join(SPEAKERS)}"
        )
    return turn_of(speaker, turn[what])


BUILDERS = {
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "messages": _messages,
    "sharegpt": _sharegpt,
}
