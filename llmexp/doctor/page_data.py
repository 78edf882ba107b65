"""The data on the page: sources, splits, overlap, labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmexp.doctor.page import Page
    from llmexp.doctor.report import Report


def sources(out: Page, report: Report) -> None:
    out.title("data")
    for source in report.sections["sources"]:
        counts = [f"{source[name]['count']} {name}" for name in ("bad", "empty")]
        odd = sum(found["count"] for found in source["suspicious"].values())
        said = ", ".join([f"{source['rows']:,} rows", *counts, f"{odd} suspicious"])
        out.line(f"  {source['split']:<11}", _short(source["source"], out.width - 14))
        out.line(f"  {'':<11}", (said, "dim"))


def _short(text: str, room: int) -> str:
    return text if len(text) <= room else "…" + text[-(room - 1) :]


def rows(out: Page, report: Report) -> None:
    for name, counts in report.sections["rows"].items():
        said = f"{counts['rows']:,} rows, {counts['exact']} repeated byte for byte, "
        said += f"{counts['normalised']} once normalised"
        out.line(f"  {name:<11}", said)
    if report.overlap:
        _overlap(out, report.overlap)


def _overlap(out: Page, found: dict[str, Any]) -> None:
    out.line(
        f"  {'overlap':<11}",
        f"test texts that stand in train: {found['exact']} byte for byte, "
        f"{found['normalised']} normalised,",
    )
    more = "" if found["complete"] else "  (not of all rows)"
    out.line(f"  {'':<11}", f"{found['near']} nearly (MinHash, {found['threshold']}){more}")
    out.line(
        f"  {'':<11}",
        ("normalised: lower-cased, only letters and digits; each count", "dim"),
    )
    out.line(f"  {'':<11}", ("includes the one before it", "dim"))
    for pair in found["pairs"][:2]:
        out.line(f"  {'':<11}", _short_end(f"test  {pair['test']}", out.width - 14))
        out.line(f"  {'':<11}", _short_end(f"train {pair['train']}", out.width - 14))


def _short_end(text: str, room: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= room else flat[: room - 1] + "…"


def labels(out: Page, report: Report) -> None:
    """A bar for each class; of many classes the largest and the smallest."""
    labels = report.sections["labels"]
    total, largest = sum(labels.values()), max(labels.values())
    ranked = sorted(labels, key=lambda name: (-labels[name], name))
    out.title("labels", f"{len(labels)} classes, {total:,} train rows")
    names = ranked if len(ranked) <= 12 else [*ranked[:5], "", *ranked[-5:]]
    room = min(24, max(map(len, ranked)))
    for name in names:
        if not name:
            out.line("  ", (f"… {len(ranked) - 10} more", "dim"))
            continue
        count = labels[name]
        bar = out.bar(count, largest, out.width - room - 22)
        out.line(f"  {_short_end(name, room):<{room}} {count:>7,} {count / total:>6.1%}  {bar}")
