"""What will train, on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmexp.doctor.page import Page
    from llmexp.doctor.report import Report


def training(out: Page, report: Report) -> None:
    """Parameters by group, adapters by layer, gradients of one small step."""
    found = report.sections["training"]
    rows = found["parameters"]
    trained, total = (sum(row[name] for row in rows) for name in ("trained", "total"))
    out.title("training", f"{trained:,} of {total:,} parameters train ({trained / total:.2%})")
    room = min(36, max(len(row["group"]) for row in rows))
    for row in rows:
        share = "frozen" if not row["trained"] else _share(row)
        style = "" if row["trained"] else "dim"
        out.line((f"  {row['group']:<{room}} {row['total']:>15,}  {share}", style))
    if found.get("adapters"):
        _adapters(out, found["adapters"])
    if "loss" in found.get("gradients", {}):
        _gradients(out, found["gradients"])
    elif found["shapes_only"]:
        out.wrapped("too large to load for a look: shapes only, no gradients")
    elif not found["trains"]:
        out.wrapped("nothing is trained: the pretrained network answers as it is")
    else:
        out.wrapped("no parameter of the network trains: a classifier is fitted on its features")


def _share(row: dict[str, Any]) -> str:
    return "all train" if row["trained"] == row["total"] else f"{row['trained']:,} train"


def _adapters(out: Page, found: dict[str, Any]) -> None:
    by_name = found["by_name"]
    with_one = [f"{n} {a}/{b}" for n, (a, b) in by_name.items() if a]
    without = [f"{n} ({b})" for n, (a, b) in by_name.items() if not a]
    out.wrapped(
        f"adapters on {found['adapted']} of {found['layers']} linear layers: {', '.join(with_one)}",
        "  ",
        "    ",
    )
    if without:
        out.wrapped(f"no adapter on: {', '.join(without)}", "  ", "    ")


def _gradients(out: Page, found: dict[str, Any]) -> None:
    loss = "" if found["loss"] is None else f"; first loss {found['loss']:.3f}"
    frozen = found["tensors"] - found["trained"]
    out.wrapped(
        f"one forward and backward: {found['with_gradient']} of {found['trained']} trained tensors "
        f"get a gradient; of {frozen} frozen ones {len(found['elsewhere'])} do and "
        f"{len(found['changed_elsewhere'])} are changed by a step{loss}",
        "  ",
        "    ",
    )
    if found["silent_by_design"]:
        out.wrapped(
            f"{found['silent_by_design']} start without one by design: an adapter's A learns once "
            "its B, which begins at zero, has moved",
            "  ",
            "    ",
        )
    for name in found["without_gradient"][:5]:
        out.line("    none: ", name)
