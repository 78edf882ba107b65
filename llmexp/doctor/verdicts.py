"""What is wrong about the facts, and the override that mends it."""

from __future__ import annotations

from typing import Any

from llmexp.context import Context
from llmexp.doctor.origins import Origins
from llmexp.doctor.report import Report, fix_in
from llmexp.doctor.sources import MENDS, Source
from llmexp.tasks.base import Task

# Shares from which something is worth a warning.
MANY, RARE = 0.01, 0.9
LENGTH_STEP = 32


def dead(report: Report, key: str, origin: str, reason: str) -> None:
    fix = f"leave {key} out" if origin == "command line" else f"remove {key} from {origin}"
    report.add("dead_knob", "warning", f"{origin}: {key} changes nothing: {reason}", fix)


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
            "mend or delete them in the file",
        )
    for kind, places in found.suspicious.items():
        report.add(
            "suspicious_rows",
            "warning",
            f"data.{found.split}: {len(places)} of {total} rows hold {kind}: {_places(places)}",
            MENDS[kind],
        )


def _mended(task: Task, found: Source, total: int) -> str:
    named = fix_in(found.bad[0])
    if found.rows == 0 and "=" in named:
        return named
    share = len(found.bad) / total
    default = type(task).__pydantic_fields__["max_bad_rows"].default
    more = "" if share <= default else f" data.max_bad_rows={len(found.bad)}"
    return f"data.on_bad_row=skip{more}"


def _places(places: list[str]) -> str:
    shown = ", ".join(places[:3])
    return f"{shown} and {len(places) - 3} more" if len(places) > 3 else shown


def splits(report: Report) -> None:
    """Rows that stand on both sides, or twice on one."""
    found = report.overlap
    if found["near"]:
        report.add(
            "overlap",
            "warning",
            f"{found['near']} of {found['test']} test texts stand in train: {found['exact']} byte "
            f"for byte, {found['normalised']} lower-cased with only letters and digits, the rest "
            f"nearly (similarity {found['threshold']} or more)",
            "data.overlap=drop" if found["normalised"] else "drop them from the file",
        )
    for name, counts in report.sections["rows"].items():
        if counts["conflicting_labels"]:
            report.add(
                "conflicting_labels",
                "warning",
                f"{name}: {counts['conflicting_labels']} texts carry two different labels",
                "mend the labels in the file",
            )
        if counts["normalised"] > MANY * counts["rows"]:
            report.add(
                "duplicates",
                "warning",
                f"{name}: {counts['normalised']} of {counts['rows']} rows repeat an earlier one",
                "data.duplicates=drop" if name == "train" else "drop them from the file",
            )


def balance(report: Report) -> None:
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
            f"train: {labels[largest]} of {total} rows are {largest!r}, so accuracy says little",
            "objective=val/f1_macro",
        )
    few = [name for name, count in labels.items() if count < 2]
    if few:
        report.add(
            "rare_labels",
            "warning",
            f"train: {len(few)} of {len(labels)} classes have fewer than two rows: "
            f"{', '.join(few[:5])}",
            "data.limit.train=null" if total < 1000 else "add rows of these classes",
        )


def tokens(report: Report, context: Context) -> None:
    """Rows that lose something, learn nothing, or begin or end wrongly."""
    found, task = report.sections["tokens"], context.task
    if found["too_long"] > MANY * found["sample"]:
        longest = -(-found["lengths"]["longest"] // LENGTH_STEP) * LENGTH_STEP
        room = context.model.longest(context.config)
        what = ", ".join(f"{n} {name}" for name, n in found["counts"].items()) or "cut"
        report.add(
            "too_long",
            "warning",
            f"{found['too_long']} of {found['sample']} rows are longer than "
            f"{context.max_length} tokens ({what})",
            f"data.max_length={min(longest, room)}"
            if context.max_length < room
            else "a model that reads more, such as model=modernbert_base for texts",
        )
    if found["fully_masked"]:
        report.add(
            "fully_masked",
            "warning",
            f"{found['fully_masked']} of {found['sample']} rows teach nothing: no token is learned",
            "data.train_on=everything" if hasattr(task, "train_on") else "mend the rows",
        )
    marks, encoded = found["marks"], found["encoded"]
    if marks["doubled_bos"]:
        report.add(
            "doubled_bos",
            "fails",
            f"{marks['doubled_bos']} of {encoded} rows begin with {marks['bos']} twice",
            "data.template=alpaca",
        )
    if marks["ends"] and not marks["end_learned"] and not task.in_blocks:
        report.add(
            "end_not_learned",
            "fails",
            f"no row learns {' or '.join(marks['ends'])}, so a trained model would not stop",
            "data.template=alpaca",
        )


def cache(report: Report, origins: Origins, used: bool) -> None:
    """Settings of a cache that this experiment keeps nothing in."""
    for key, origin in origins.chosen.items():
        if key.startswith("cache.") and not used:
            report.sections["dead_knobs"].append(
                {"key": key, "from": origin, "reason": "no part of the network is frozen below"}
            )
            dead(report, key, origin, "nothing below what trains is frozen, so nothing is kept")


def gradients(report: Report) -> None:
    """Gradients where none should be, or none where one should."""
    found: dict[str, Any] = report.sections["training"]["gradients"]
    missing, elsewhere = found["without_gradient"], found["elsewhere"]
    if missing and found["with_gradient"] == 0:
        report.add(
            "no_gradient",
            "fails",
            f"none of the {found['trained']} trained tensors gets a gradient",
            "optim.weight_decay=0.0 strategy=full_finetune",
        )
    elif missing:
        report.add(
            "no_gradient",
            "warning",
            f"{len(missing)} of {found['trained']} trained tensors get no gradient: "
            f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}",
            "none is needed where the network does not use them; else strategy=full_finetune",
        )
    if elsewhere:
        report.add(
            "gradient_elsewhere",
            "fails",
            f"{len(elsewhere)} frozen tensors get a gradient: {', '.join(elsewhere[:3])}",
            "strategy=full_finetune trains them on purpose",
        )
