"""What is wrong about the facts, and the override that mends it."""

from __future__ import annotations

from typing import Any

from llmexp.context import Context
from llmexp.doctor.knobs import DeadKnob
from llmexp.doctor.origins import COMMAND_LINE
from llmexp.doctor.report import Report

# The share from which something is worth a warning.
MANY = 0.01
LENGTH_STEP = 32


def dead(report: Report, knobs: list[DeadKnob]) -> None:
    """One finding for all that one place set in vain for one reason."""
    together: dict[tuple[str, str], list[str]] = {}
    for knob in knobs:
        together.setdefault((knob.origin, knob.reason), []).append(knob.key)
    for (origin, reason), keys in together.items():
        names = ", ".join(keys)
        verb = "changes" if len(keys) == 1 else "change"
        fix = f"leave out {names}" if origin == COMMAND_LINE else f"remove {names} from {origin}"
        report.add("dead_knob", "warning", f"{origin}: {names} {verb} nothing: {reason}", fix)


def tokens(report: Report, context: Context) -> None:
    """Rows that lose something, learn nothing, or begin or end wrongly."""
    found, task = report.sections["tokens"], context.task
    if found["too_long"] > MANY * found["sample"]:
        longest = -(-found["lengths"]["longest"] // LENGTH_STEP) * LENGTH_STEP
        room = context.model.longest(context.config)
        what = ", ".join(f"{n} {name}" for name, n in found["counts"].items())
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
