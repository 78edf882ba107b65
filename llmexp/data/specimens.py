"""Made-up rows in the columns a data node reads, so that any of them can be tried offline."""

from __future__ import annotations

import re
from typing import Any

from llmexp.data.conversations import FORMATS
from llmexp.errors import UserError, did_you_mean
from llmexp.tasks.base import Row, Task

SENTENCES = (
    "The ferry left the harbour before the fog had lifted.",
    "Nobody at the table could say who had ordered the soup.",
    "A good map is drawn by somebody who has walked the road.",
    "The orchestra played the slow movement twice that night.",
    "Her answer was short, and it settled the whole question.",
    "In winter the lake freezes, and the children skate to school.",
    "The machine counts coins faster than three people can.",
    "What began as a quarrel about a fence ended in a friendship.",
    "The film is too long by half an hour, yet nobody left.",
    "Please close the window: the papers are flying about.",
    "An old clock in the hall strikes thirteen now and then.",
    "The bridge was repaired with stones from the ruined mill.",
    "He reads the last page of every book before the first.",
)
ROWS = {"train": 24, "validation": 8, "test": 8}
PER_CLASS = {"train": 5, "validation": 1, "test": 1}
# Pairs of sentences that a split has to itself.
SPAN = len(SENTENCES) * (len(SENTENCES) - 1) // len(ROWS)


def text_of(split: str, number: int) -> str:
    """Two sentences that no other row has, in this split or another."""
    if split not in ROWS:
        raise UserError(f"specimens:{split}: no such split; {did_you_mean(split, ROWS)}")
    at = SPAN * list(ROWS).index(split) + number % SPAN
    first, second = at % len(SENTENCES), (at + at // len(SENTENCES) + 1) % len(SENTENCES)
    return f"{SENTENCES[first]} {SENTENCES[second]}"


def labelled(task: Any, split: str) -> list[Row]:
    """Rows for classification: the classes that have words in YAML, else two."""
    labels = list(task.labels) or ["negative", "positive"]
    count = max(ROWS.get(split, 0), PER_CLASS.get(split, 0) * len(labels))
    rows = []
    for i in range(count):
        row = {"text": text_of(split, i), "label": labels[i % len(labels)]}
        if "text_pair" in task.columns:
            row["text_pair"] = text_of(split, i + 1)
        rows.append(named(task, row))
    return rows


def answered(task: Any, split: str) -> list[Row]:
    """Rows for instruction, in the format the node reads."""
    return [_request(task, text_of(split, i), i) for i in range(ROWS.get(split, 1))]


def documents(task: Task, split: str) -> list[Row]:
    """Rows for language modeling: a few texts of some length."""
    parts = [text_of(split, i) for i in range(ROWS.get(split, 1))]
    size = 4
    texts = [" ".join(parts[i:] + parts[:i]) for i in range(0, len(parts), size)]
    return [named(task, {"text": text}) for text in texts]


def _request(task: Any, text: str, number: int) -> Row:
    answer = SENTENCES[number % len(SENTENCES)]
    if task.prompt is not None:
        columns = dict.fromkeys(re.findall(r"\{(\w+)\}", task.prompt), text)
        return {**columns, **named(task, {"completion": answer})}
    turns = [("user", text), ("assistant", answer)]
    rows: dict[str, Row] = {
        "alpaca": {"instruction": "Say the first sentence.", "input": text, "output": answer},
        "prompt_completion": {"prompt": text, "completion": answer},
        "messages": {"messages": [{"role": who, "content": what} for who, what in turns]},
        "sharegpt": {"conversations": [{"from": who, "value": what} for who, what in turns]},
    }
    return named(task, rows[_format(task)])


def _format(task: Any) -> str:
    """The format in YAML; where it is detected, the one whose columns YAML renames."""
    if task.format != "auto":
        return str(task.format)
    renamed = [name for name, roles in FORMATS.items() if set(roles) & set(task.columns)]
    return renamed[0] if renamed else "alpaca"


def named(task: Task, row: Row) -> Row:
    """The same row under the node's own column names."""
    return {task.columns.get(role, role): value for role, value in row.items()}
