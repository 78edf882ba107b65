"""What is wrong about the rows as they lie, and the override that mends it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from llmexp.data.sources import load_examples
from llmexp.doctor.fixes import fix_in
from llmexp.doctor.report import Report
from llmexp.doctor.sources import Source, mend
from llmexp.tasks.base import Task

# Shares from which something is worth a warning.
MANY, RARE = 0.01, 0.9


def source(report: Report, task: Task, found: Source) -> None:
    """Bad, empty and suspicious rows of one source, with the first places."""
    total = found.rows + len(found.bad)
    if found.bad:
        level = "fails" if found.too_many(task) else "warning"
        report.add(
            "bad_rows",
            level,  # type: ignore[arg-type]
            f"data.{found.split}: {len(found.bad)} of {total} rows cannot be used; "
            f"the first: {found.bad[0]}",
            _mended(task, found, total),
        )
    if found.empty:
        report.add(
            "empty_rows",
            "warning",
            f"data.{found.split}: {len(found.empty)} of {total} rows say nothing and are left "
            f"out: {_places(found.empty)}",
            None,
        )
    for kind, places in found.suspicious.items():
        report.add(
            "suspicious_rows",
            "warning",
            f"data.{found.split}: {len(places)} of {total} rows hold {kind}: {_places(places)}",
            mend(task, kind, found.locator),
        )


def _mended(task: Task, found: Source, total: int) -> str | None:
    """Another way to read the file where no row can be read; else to leave out those that cannot;
    nothing where they are left out already."""
    if found.rows == 0:
        return fix_in(found.bad[0])
    if not found.too_many(task):
        return None
    share = len(found.bad) / total
    ceiling = task.max_bad_rows
    allowed = share <= ceiling if isinstance(ceiling, float) else len(found.bad) <= ceiling
    more = "" if allowed else f" data.max_bad_rows={len(found.bad)}"
    return f"data.on_bad_row=skip{more}"


def _places(places: list[str]) -> str:
    shown = ", ".join(places[:3])
    return f"{shown} and {len(places) - 3} more" if len(places) > 3 else shown


def splits(report: Report, task: Task) -> None:
    """Rows that stand on both sides, or twice on one."""
    _leaked(report)
    rows = report.sections["rows"]
    conflicts = {n: c["conflicting_labels"] for n, c in rows.items() if c["conflicting_labels"]}
    if conflicts:
        report.add(
            "conflicting_labels",
            "warning",
            f"texts that carry two different labels: {_listed(conflicts)}",
            None,
        )
    for name, counts in rows.items():
        if counts["normalised"] > MANY * counts["rows"]:
            # Rows are dropped before validation or test is carved from what is left.
            ours = name == "train" or getattr(task, name) is None
            report.add(
                "duplicates",
                "warning",
                f"{counts['normalised']} rows of {name} repeat an earlier one",
                "data.duplicates=drop" if ours and not task.streaming else None,
            )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in counts.items())


def _leaked(report: Report) -> None:
    found = report.overlap
    nearly = found["near"] - found["normalised"]
    if found["normalised"]:
        more = f"; {nearly} more nearly do" if nearly else ""
        report.add(
            "overlap",
            "warning",
            f"{found['normalised']} of {found['test']} test texts stand in train, lower-cased "
            f"with only letters and digits ({found['exact']} byte for byte){more}",
            "data.overlap=drop",
        )
    elif nearly > MANY * found["test"]:
        report.add(
            "near_overlap",
            "warning",
            f"{nearly} of {found['test']} test texts nearly stand in train (similarity "
            f"{found['threshold']} or more): read the pairs in --json",
            None,
        )


def balance(report: Report, task: Task) -> None:
    """A class that nearly all rows have, or that almost none has."""
    labels = report.sections["labels"]
    total = sum(labels.values())
    if not labels:
        return
    largest = max(labels, key=lambda name: labels[name])
    if labels[largest] > RARE * total:
        report.add(
            "imbalance",
            "warning",
            f"train: {labels[largest]} of {total} rows are {largest!r}, so accuracy says little; "
            "f1_macro says more",
            None,
        )
    few = [name for name, count in labels.items() if count < 2]
    if few:
        report.add(
            "rare_labels",
            "warning",
            f"train: {len(few)} of {len(labels)} classes have fewer than two rows: "
            f"{', '.join(few[:5])}",
            "data.limit.train=null" if _enough(task, few) else None,
        )


def _enough(task: Task, labels: list[str]) -> bool:
    """Whether these classes have their rows where train is not limited."""
    if task.limit.train is None:
        return False
    whole = load_examples(replace(task, limit=replace(task.limit, train=None)))
    counts = Counter(row["label"] for row in whole.train)
    return all(counts[name] >= 2 for name in labels)
