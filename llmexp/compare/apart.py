"""Which runs do not compare, said by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmexp.compare.comparison import Group

Result = dict[str, Any]


# So many runs are named in a line of a terminal; a page names all.
MOST = 3


def why_apart(found: list[Group], most: int | None = MOST) -> str:
    """Which runs are not compared with the others, and why; "" where all are."""
    tables = [group for group in found if group.runs]
    if len(tables) < 2:
        return ""
    first = tables[0]
    lines = [
        f"{len(tables)} tables: these runs pose different tasks or were tested on different rows "
        "(by fingerprint), so their numbers do not compare:"
    ]
    for number_, group in enumerate(tables[1:], 2):
        why = [f"pose {group.task}, not {first.task}"] if group.task != first.task else []
        if group.fingerprint != first.fingerprint:
            rows_ = [one.fingerprint[:8] or "none" for one in (group, first)]
            why.append(f"were tested on rows {rows_[0]}, not {rows_[1]}")
        lines.append(f"  table {number_}: {listed(group.runs, most)} {' and '.join(why)}")
    return "\n".join(lines)


def listed(runs: list[Result], most: int | None = MOST) -> str:
    """Runs by their folder, or by what they are: all, or `most` of them."""
    names = [str(run.get("folder") or f"{run['strategy']} seed {run['seed']}") for run in runs]
    rest = len(names[most:]) if most is not None else 0
    return ", ".join(names[:most]) + (f" and {rest} more (--html names all)" if rest else "")
