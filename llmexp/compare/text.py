"""A comparison as a terminal table, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmexp.compare.comparison import (
    Group,
    columns,
    footnotes,
    rows,
    test_fingerprint,
    title,
    why_apart,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FACTS = ("name", "task", "strategy", "model", "data", "seed", "status", "reason")


def rich_table(group: Group) -> Table:
    """Narrow enough for 80 columns; the first column gives way."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=Text(title(group)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        padding=(0, 0 if len(group.varying()) > 1 else 1),
    )
    words = ("strategy", "model")
    for name in columns(group):
        made.add_column(
            name,
            justify="left" if name in words else "right",
            no_wrap=name != words[0],
            overflow="fold",
        )
    for cells in rows(group):
        made.add_row(*(Text(cell) for cell in cells), style="dim" if cells[0][0] == "(" else None)
    return made


def markdown_text(groups: list[Group]) -> str:
    """One table for each test set, for a document."""
    parts = [why_apart(groups)]
    for group in groups:
        if group.runs:
            parts.append(f"**{_cell(title(group))}**")
            lines = [columns(group), _rule(group), *rows(group)]
            parts.append("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
        parts += [f"- {_cell(note)}" for note in footnotes(group)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rule(group: Group) -> list[str]:
    return ["---" if name in ("strategy", "model") else "---:" for name in columns(group)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def csv_text(groups: list[Group]) -> str:
    """Every run with every number, in the order of the tables."""
    records = [_record(run) for group in groups for run in [*group.runs, *group.unfinished]]
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _record(run: dict[str, Any]) -> dict[str, Any]:
    record = {name: run.get(name) for name in FACTS}
    record |= {"test_fingerprint": test_fingerprint(run), **run.get("metrics", {})}
    record |= {f"baseline/{name}": value for name, value in run.get("baseline", {}).items()}
    record |= {f"cost/{name}": value for name, value in run.get("cost", {}).items()}
    return {**record, "folder": run.get("folder", "")}


def svg_text(show: Callable[[Console], None]) -> str:
    """What `show` prints, as a picture that asks no server for fonts."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console

    console = Console(record=True, width=90, file=io.StringIO(), highlight=False)
    show(console)
    local = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S)
    return console.export_svg(title="llmexp compare", code_format=local, unique_id="compare")
