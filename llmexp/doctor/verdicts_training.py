"""What is wrong about what trains: freezing against the intention, gradients that are missing."""

from __future__ import annotations

from typing import Any

from llmexp.context import Context
from llmexp.doctor.report import Report

WHOLE = (None, 32, "32", "32-true")


def training(report: Report) -> None:
    """Gradients where none should be, or none where one should."""
    section: dict[str, Any] = report.sections["training"]
    found = section["gradients"]
    if frozen := found["frozen_though_meant"]:
        report.add(
            "frozen",
            "fails",
            f"{len(frozen)} of {found['meant']} tensors that the strategy means to train are "
            f"frozen: {named(frozen)}",
            None,
        )
    if more := found["trained_though_not_meant"]:
        report.add(
            "gradient_elsewhere",
            "fails",
            f"{len(more)} tensors train that the strategy means to leave as they are: "
            f"{named(more)}",
            None,
        )
    if "loss" in found:
        _stepped(report, found)
    elif section["shapes_only"] and found["trained"]:
        report.add(
            "no_step",
            "warning",
            "the network is too large to be loaded for a look here: no forward and backward "
            "has shown that it trains",
            None,
        )


def _stepped(report: Report, found: dict[str, Any]) -> None:
    missing = found["without_gradient"]
    if missing and found["with_gradient"] == 0:
        report.add(
            "no_gradient",
            "fails",
            f"none of the {found['trained']} trained tensors gets a gradient",
            None,
        )
    elif missing:
        report.add(
            "no_gradient",
            "warning",
            f"{len(missing)} of {found['trained']} trained tensors get no gradient: "
            f"{named(missing)}; none is needed where the network does not use them",
            None,
        )
    if changed := found["changed_elsewhere"]:
        report.add(
            "changed_elsewhere",
            "fails",
            f"one step changed {len(changed)} tensors that are meant to stay: {named(changed)}",
            None,
        )


def diverged(report: Report, error: Exception, context: Context, where: dict[str, Any]) -> None:
    """A first loss that is not finite: half precision may be why."""
    half = []
    if where.get("precision") not in WHOLE:
        half.append("hardware.precision=32-true")
    if context.model.dtype in ("float16", "bfloat16"):
        half.append("model.dtype=float32")
    report.add("diverged", "fails", str(error), " ".join(half) or None)


def named(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
