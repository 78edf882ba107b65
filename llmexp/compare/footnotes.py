"""What a reader of a table must know beside its numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from llmexp.compare.apart import MOST, listed
from llmexp.compare.comparison import METRICS, Group
from llmexp.compare.tokens import per_token

Result = dict[str, Any]


def footnotes(group: Group, most: int | None = MOST) -> list[str]:
    """What a reader must know beside the numbers; of many runs `most` by name, or all."""
    lines = []
    lacking = [run for run in group.runs if run["metrics"].get(group.metric) is None]
    if lacking and len(lacking) == len(group.runs):
        lines.append(unmeasured(group))
    elif lacking:
        lines.append(f"no {group.metric}, so not compared by it: {listed(lacking, most)}")
    if group.foreign:
        lines.append(strangers(group, most))
    elif len(group.vocabularies) > 1 and any(map(per_token, group.metrics())):
        lines.append("loss and perplexity are per token: models with other tokenizers differ.")
    if len(lacking) < len(group.runs) and "folder" in group.runs[0] and not group.foreign:
        lines.append(f"best: {group.runs[0]['folder']}")
    for run in group.unfinished:
        reason = f": {run['reason']}" if run.get("reason") else ""
        who = f"{run.get('strategy', '?')} {run.get('model', '?')} seed {run.get('seed', '?')}"
        lines.append(f"{run['status']}: {who}{reason}" + at(run))
    return lines


def unmeasured(group: Group) -> str:
    """That no run has the metric, and what to rank them by instead."""
    there = {name: None for run in group.runs for name in run["metrics"]}
    tests = [name for name in there if name.startswith("test/") and name.count("/") == 1]
    other = sorted(tests) or sorted(there)
    said = f"no run here has {group.metric}, so they are in no order of quality"
    return said + (f"; they have {', '.join(other)}" if other else "")


def at(run: Result) -> str:
    return f" ({run['folder']})" if "folder" in run else ""


def strangers(group: Group, most: int | None = MOST) -> str:
    """Why runs are not ranked by a metric per token, and what to rank them by."""
    there = Counter(name for run in group.runs for name in run["metrics"])
    other = next((name for name in METRICS if there[name] and not per_token(name)), None)
    said = (
        f"{group.metric} is per token, and the test rows are other tokens to "
        f"{'; other ones to '.join(listed(runs, most) for runs in group.vocabularies)}: "
        "neither tested nor ranked against each other by it"
    )
    return said + (f"; --metric {other} compares them" if other else "")
