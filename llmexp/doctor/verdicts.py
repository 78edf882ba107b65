"""What is wrong about the facts, and the override that mends it."""

from __future__ import annotations

from typing import Any

from llmexp.doctor.knobs import DeadKnob
from llmexp.doctor.origins import COMMAND_LINE
from llmexp.doctor.report import Report


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
