"""How much of the test split was seen in training: byte for byte, normalised, and nearly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmexp.data.splits import content_key
from llmexp.tasks.base import Row

# Jaccard similarity of character shingles from which two texts count as nearly the same.
NEAR = 0.8
SHINGLE = 5
PERMUTATIONS = 64
# Above so many rows the near ones are looked for in the first of them only: it takes seconds.
MOST = 20_000


def question(row: Row) -> str:
    """What a row asks, byte for byte: its texts without label and answer."""
    if "messages" in row:
        return "\x1f".join(turn["content"] for turn in row["messages"][:-1])
    return "\x1f".join(row[name] for name in ("text", "text_pair") if name in row)


def overlap(train: list[Row], test: list[Row]) -> dict[str, Any]:
    """Test rows whose text stands in train; each count includes the one before it."""
    questions = {question(row) for row in train}
    keys = {content_key(row) for row in train}
    exact = sum(question(row) in questions for row in test)
    same = [row for row in test if content_key(row) in keys]
    others = [row for row in test if content_key(row) not in keys]
    pairs = near_pairs(train[:MOST], others[:MOST])
    found: dict[str, Any] = {"exact": exact, "normalised": len(same)}
    found["near"] = len(same) + len(pairs)
    found |= {"test": len(test), "threshold": NEAR}
    found["complete"] = max(len(train), len(others)) <= MOST
    found["pairs"] = [{"test": a, "train": b, "similarity": round(s, 3)} for a, b, s in pairs[:5]]
    return found


def near_pairs(train: list[Row], test: list[Row]) -> list[tuple[str, str, float]]:
    """(test text, train text, similarity) of each test row with a near one, nearest first.

    MinHash finds candidates; their similarity is then computed, so that no pair is a guess.
    """
    from datasketch import MinHash, MinHashLSH

    if not train or not test:
        return []
    ours = [shingles(content_key(row)) for row in train]
    theirs = [shingles(content_key(row)) for row in test]
    index = MinHashLSH(threshold=NEAR - 0.1, num_perm=PERMUTATIONS)
    for number, made in enumerate(MinHash.bulk(map(_bytes, ours), num_perm=PERMUTATIONS)):
        index.insert(number, made, check_duplication=False)
    pairs = []
    for number, made in enumerate(MinHash.bulk(map(_bytes, theirs), num_perm=PERMUTATIONS)):
        best = max(((jaccard(theirs[number], ours[i]), i) for i in index.query(made)), default=None)
        if best is not None and best[0] >= NEAR:
            pairs.append((question(test[number]), question(train[best[1]]), best[0]))
    return sorted(pairs, key=lambda pair: -pair[2])


def shingles(text: str) -> set[str]:
    """Every run of SHINGLE characters; a shorter text is one shingle."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _bytes(found: set[str]) -> list[bytes]:
    return [piece.encode("utf-8", "surrogatepass") for piece in found]


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def duplicates(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows repeat an earlier one, and how many texts carry two labels."""
    rows = list(rows)
    keys = Counter(content_key(row) for row in rows)
    labels: dict[str, set[str]] = {}
    for row in rows:
        if "label" in row:
            labels.setdefault(content_key(row), set()).add(row["label"])
    return {
        "exact": len(rows) - len({question(row) for row in rows}),
        "normalised": len(rows) - len(keys),
        "conflicting_labels": sum(len(found) > 1 for found in labels.values()),
    }
