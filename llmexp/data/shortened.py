"""Token ids that are too many: the beginning goes, BOS stays, in training and asking alike."""

from __future__ import annotations


def without_beginning(ids: list[int], excess: int, bos: int | None) -> tuple[list[int], int]:
    """The ids without their first `excess`, but for BOS; and how many of them that is, 0 or 1."""
    head = 1 if bos is not None and ids[:1] == [bos] else 0
    return ids[:head] + ids[head + excess :], head


def cut_prompt(
    ids: list[int], marks: list[int], excess: int, bos: int | None
) -> tuple[list[int], list[int]] | None:
    """The conversation without its first `excess` tokens (BOS stays), the last answer whole.

    An earlier answer in which the rest begins is no longer learned; None where the last would be
    cut, or be left without a prompt.
    """
    kept, head = without_beginning(ids, excess, bos)
    start = head + excess
    if max(marks) <= 0 or start >= marks.index(max(marks)):
        return None
    begun = marks[start] if marks[start] > 0 else None
    rest = [0 if mark == begun else mark for mark in marks[start:]]
    return kept, [0] * head + rest
