"""Several documents in one training row: which go together, and where each begins."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from llmexp.tasks.base import Row


def best_fit(lengths: list[int], room: int) -> list[list[int]]:
    """Packs of positions, at most `room` tokens each: the longest first, each where least is left.

    The same lengths give the same packs. Within 22 % of the fewest packs possible, whatever the
    lengths (best-fit decreasing).
    """
    packs: list[list[int]] = []
    free: list[int] = []
    """The room that is left in packs, rising, each size once."""
    waiting: dict[int, list[int]] = {}
    """Room that is left -> the packs that have it."""
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(free, lengths[i])
        if at == len(free):
            pack, left = len(packs), room
            packs.append([])
        else:
            left = free[at]
            pack = waiting[left].pop()
            if not waiting[left]:
                del waiting[left], free[at]
        packs[pack].append(i)
        left -= lengths[i]
        if left not in waiting:
            waiting[left] = []
            insort(free, left)
        waiting[left].append(pack)
    return packs


def packed(rows: Sequence[Row], room: int) -> list[Row]:
    """Rows end to end, at most `room` tokens together; `position_ids` begin again with each row.

    A label is what its own position must predict, so it belongs to the document of its position.
    """
    found = []
    for pack in best_fit([len(row["input_ids"]) for row in rows], room):
        members = [rows[i] for i in pack]
        row: Row = {
            "input_ids": [token for m in members for token in m["input_ids"]],
            "labels": [label for m in members for label in m["labels"]],
            "position_ids": [p for m in members for p in range(len(m["input_ids"]))],
            "index": members[0]["index"],
        }
        if "text_bytes" in members[0]:
            row["text_bytes"] = sum(m["text_bytes"] for m in members)
        found.append(row)
    return found
