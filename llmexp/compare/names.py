"""What an arm is called: its strategy, and what tells it from the other arms of that name."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

from llmexp.compare.settings import differences

Result = dict[str, Any]

# Of what differs, so many keys are named.
MOST_KEYS = 3


def names_of(members: list[list[Result]]) -> list[str]:
    """The strategy, and what else tells an arm from the others of that name."""
    firsts = [runs[0] for runs in members]
    names = [str(run.get("strategy", "?")) for run in firsts]
    for key in ("model", "data"):
        if len({run.get(key) for run in firsts}) > 1:
            names = [f"{n} {run.get(key)}" for n, run in zip(names, firsts, strict=True)]
    alike = {name: [i for i, other in enumerate(names) if other == name] for name in names}
    for name, places in alike.items():
        for i, said in zip(places, _told_apart([firsts[k] for k in places]), strict=True):
            names[i] = f"{name}{said}"
    return names


def _told_apart(firsts: list[Result]) -> list[str]:
    """What is set differently in arms of one name: MOST_KEYS, and more where those are not enough.

    Arms that are set alike read other rows.
    """
    said = [""] * len(firsts)
    for place, (key, values) in enumerate([*differences(firsts).items(), *_rows(firsts).items()]):
        label = key.rpartition(".")[2]
        longer = [f"{text} {label}={value}" for text, value in zip(said, values, strict=True)]
        if place < MOST_KEYS or len(set(longer)) > len(set(said)):
            said = longer
    return said


def _rows(firsts: list[Result]) -> dict[str, list[str]]:
    """The fingerprints of rows that are not the same ones in all runs."""
    every = [run.get("fingerprint", {}) for run in firsts]
    keys = sorted({key for one in every for key in one})
    found = {f"{key} rows": [str(one.get(key, "-"))[:8] for one in every] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def numbered(names: list[str]) -> list[str]:
    """The names, with a number where they are alike still: evidence is kept by arm, not merged."""
    made = list(names)
    for name, often in Counter(names).items():
        places = [i for i, other in enumerate(names) if other == name] if often > 1 else []
        free = (new for n in count(1) if (new := f"{name} #{n}") not in made)
        for i in places:
            made[i] = next(free)
    return made
