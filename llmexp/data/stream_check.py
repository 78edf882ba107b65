"""What a stream needs that rows in memory do not, said before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmexp.tasks.base import Task

# Fractions of an epoch, which has no known length; 1.0 is the whole of it.
FRACTIONS = ("val_check_interval", "limit_train_batches", "overfit_batches")


def task_complaints(task: Task) -> list[str]:
    """About the data node alone; each `data.key: sentence`."""
    if not task.streaming:
        return []
    if not task.streams:
        return [
            f"data.streaming: a {task.kind} task looks at all train rows before it trains (for "
            "its classes); use data.streaming=false, perhaps with data.limit.train"
        ]
    found = [
        f"data.{name}: a stream holds out no fraction; give a source, or data.limit.{name}=500 "
        "for the first 500 rows of train"
        for name in ("validation", "test")
        if getattr(task, name) is None and getattr(task.limit, name) is None
    ]
    if task.duplicates == "drop":
        found.append(
            "data.duplicates: drop needs the memory of all train rows, which a stream has not; "
            "use data.duplicates=keep and drop them from the file"
        )
    return found + _source_complaints(task)


def _source_complaints(task: Task) -> list[str]:
    ending = Path(task.train).suffix.lower()
    found = []
    if ending == ".json" and not task.train.startswith("hub:"):
        found.append(
            f"data.train: {task.train} is one JSON list, which has to be read whole; write one "
            "object a line and call it .jsonl"
        )
    whole = ending == ".txt" and task.pattern is None and task.separator is None
    if whole and not task.train.startswith("hub:"):
        found.append(
            "data.separator: a .txt file without one is a single document; name what parts its "
            r"documents, as in data.separator='\n\n'"
        )
    if task.separator == "":
        found.append("data.separator: '' joins all rows into one text; name what parts them")
    if task.train.startswith("hub:") and task.train.endswith("]"):
        found.append(
            f"data.train: {task.train}: a stream takes no slice; use data.limit.train for its "
            "first rows"
        )
    return found


def trainer_complaints(task: Task, trainer: dict[str, Any], trains: bool) -> list[str]:
    """About the loop that is to read it; each `trainer.key: sentence`."""
    if not task.streaming or not trains:
        return []
    found = []
    if trainer.get("max_steps", -1) in (-1, None):
        found.append(
            "trainer.max_steps: how long a stream is, is not known before its end, so the steps "
            "must be given, for example trainer.max_steps=1000"
        )
    for name in FRACTIONS:
        value = trainer.get(name)
        if isinstance(value, float) and value not in (0.0, 1.0):
            found.append(
                f"trainer.{name}: {value} is a fraction of an epoch, and a stream's length is not "
                f"known; give batches, for example trainer.{name}=500"
            )
    return found


def unread_by(task: Task) -> dict[str, str]:
    """Fields that streaming, or its absence, leaves unread."""
    if not task.streaming:
        return {"shuffle_buffer": "data.streaming=false: all rows are shuffled"}
    why = "a stream takes first rows, it draws none"
    return dict.fromkeys(("validation_fraction", "test_fraction", "split_seed"), why)
