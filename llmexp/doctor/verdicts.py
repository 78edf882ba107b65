"""What is wrong about the facts, and the override that mends it."""

from __future__ import annotations

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
        fix = f"leave out {names}" if origin == COMMAND_LINE else None
        report.add("dead_knob", "warning", f"{origin}: {names} {verb} nothing: {reason}", fix)
