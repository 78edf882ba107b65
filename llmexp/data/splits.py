"""Which rows train, validate and test: decided by contents and `data.split_seed`, nothing else."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from llmexp.tasks.base import Row, Task

FEW_DOCUMENTS = 10
Parts = tuple[list[Row], list[Row]]


def content_key(row: Row) -> str:
    """What makes two rows the same question: their texts, lower-cased, letters and digits only."""
    if "messages" in row:
        texts = [turn["content"] for turn in row["messages"][:-1]]
    else:
        texts = [row["text"], row.get("text_pair", "")]
    text = "\x1f".join(texts)
    return re.sub(r"[\W_]+", "", text.lower()) or text


def carve(rows: list[Row], fraction: float, seed: int, purpose: str) -> Parts:
    """(rest, held out): about that fraction, drawn class by class, both parts in file order.

    Rows with the same content stay on one side, and a class is never carved out of `rest`.
    """
    if len(rows) < FEW_DOCUMENTS and all(set(row) == {"text"} for row in rows):
        return cut_documents(rows, fraction)
    count = max(1, round(len(rows) * fraction))
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[content_key(row)].append(index)
    classes: dict[str, list[list[int]]] = defaultdict(list)
    for members in groups.values():
        classes[rows[members[0]].get("label", "")].append(members)
    sizes = {name: sum(map(len, members)) for name, members in classes.items()}
    taken: set[int] = set()
    for name, quota in shares(sizes, count).items():
        texts = classes[name]
        random.Random(f"{seed}:{purpose}:{name}").shuffle(texts)  # noqa: S311
        taken.update(_fill(texts[:-1], quota))
    return _parted(rows, taken)


def _fill(groups: Iterable[list[int]], quota: int) -> list[int]:
    chosen: list[int] = []
    for group in groups:
        if len(chosen) + len(group) <= quota:
            chosen += group
    return chosen


def shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """`count` divided over classes in proportion to their sizes, by largest remainder."""
    total = sum(sizes.values())
    exact = {name: count * size / total for name, size in sizes.items()}
    quota = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (quota[name] - exact[name], name))
    for name in by_remainder[: count - sum(quota.values())]:
        quota[name] += 1
    return quota


def cut_documents(rows: list[Row], fraction: float) -> Parts:
    """(beginnings, ends) of each document, cut at a character: a few long texts have no rows."""
    beginnings, ends = [], []
    for row in rows:
        at = round(len(row["text"]) * (1 - fraction))
        beginnings.append({"text": row["text"][:at]})
        ends.append({"text": row["text"][at:]})
    return [r for r in beginnings if r["text"]], [r for r in ends if r["text"]]


def limited(rows: list[Row], count: int | None, seed: int, purpose: str) -> list[Row]:
    """At most `count` rows in file order, drawn class by class, one of each where they fit."""
    if count is None or count >= len(rows):
        return rows
    classes: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        classes[row.get("label", "")].append(index)
    sizes = {name: len(members) for name, members in classes.items()}
    spare = count - len(classes)
    quota = dict.fromkeys(classes, 1) if spare >= 0 else dict.fromkeys(classes, 0)
    rest = {name: size - quota[name] for name, size in sizes.items()}
    for name, more in shares(rest, spare if spare >= 0 else count).items():
        quota[name] += more
    taken: set[int] = set()
    for name, members in classes.items():
        draw = random.Random(f"{seed}:limit:{purpose}:{name}")  # noqa: S311
        taken.update(draw.sample(members, quota[name]))
    return _parted(rows, taken)[1]


def _parted(rows: list[Row], taken: set[int]) -> Parts:
    rest = [row for index, row in enumerate(rows) if index not in taken]
    return rest, [row for index, row in enumerate(rows) if index in taken]


def cleaned(
    train: list[Row], others: dict[str, list[Row]], task: Task, notes: list[str]
) -> list[Row]:
    """Train without what `data.overlap` and `data.duplicates` say to drop; notes count it."""
    held_out = {content_key(row) for rows in others.values() for row in rows}
    seen: set[str] = set()
    kept = []
    leaked = doubled = 0
    for row in train:
        key = content_key(row)
        if task.overlap == "drop" and key in held_out:
            leaked += 1
        elif task.duplicates == "drop" and key in seen:
            doubled += 1
        else:
            kept.append(row)
        seen.add(key)
    if leaked:
        notes.append(f"train: {leaked} rows dropped whose text stands in validation or test")
    if doubled:
        notes.append(f"train: {doubled} rows dropped that repeat the text of an earlier one")
    return kept


def overlap_notes(train: list[Row], others: dict[str, list[Row]]) -> list[str]:
    """What looks leaked or doubled, in sentences."""
    counts = Counter(content_key(row) for row in train)
    exact = Counter(json.dumps(row, sort_keys=True) for row in train)
    notes = []
    for name, rows in others.items():
        shared = sum(content_key(row) in counts for row in rows)
        if shared:
            notes.append(
                f"{shared} of {len(rows)} {name} texts also stand in train (lower-cased, letters "
                f"and digits only)"
            )
    doubled = len(train) - len(exact)
    if doubled:
        notes.append(f"{doubled} train rows repeat an earlier one")
    return notes
