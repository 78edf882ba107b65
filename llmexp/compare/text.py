"""A comparison as a terminal table, as Markdown and as records."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.compare.apart import why_apart
from llmexp.compare.comparison import test_fingerprint
from llmexp.compare.conclusions import conclusions, remarks
from llmexp.compare.price import price
from llmexp.compare.study import Study
from llmexp.compare.table import WORDS, Table, table
from llmexp.compare.verdict import Verdict

if TYPE_CHECKING:
    from rich import table as rich_tables
    from rich.console import Console

FACTS = ("name", "task", "strategy", "model", "data", "seed", "status", "reason")


PAIRS = (
    *("test_fingerprint", "metric", "first", "second", "verdict", "difference", "low", "high"),
    *("p_holm", "test", "seeds_first", "seeds_second", "examples"),
)


def rich_table(shown: Table, width: int) -> rich_tables.Table:
    """With room between columns where there is some; the first column gives way."""
    from rich import box
    from rich import table as rich_tables
    from rich.text import Text

    made = rich_tables.Table(
        title=Text(shown.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        padding=(0, 0 if shown.width(2) > width else 1),
    )
    for name in shown.columns:
        made.add_column(
            name,
            justify="left" if name in WORDS else "right",
            no_wrap=name != WORDS[0],
            overflow="fold",
        )
    for cells in shown.rows:
        made.add_row(*(Text(cell) for cell in cells), style="dim" if cells[0][0] == "(" else None)
    return made


def markdown_text(studies: list[Study]) -> str:
    """One table for each test set, with what follows from it, for a document."""
    parts = [why_apart([study.group for study in studies])]
    for study in studies:
        shown = table(study)
        if study.group.runs:
            parts.append(f"**{_cell(shown.title)}**")
            lines = [shown.columns, _rule(shown), *shown.rows]
            parts.append("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
        notes = [*shown.notes, *conclusions(study), *remarks(study)]
        parts.append("\n".join(f"- {_cell(note)}" for note in notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _rule(shown: Table) -> list[str]:
    return ["---" if name in WORDS else "---:" for name in shown.columns]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def csv_text(studies: list[Study]) -> str:
    """Every run with every number, in the order of the tables."""
    names, found = records(studies)
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()


def pairs_text(studies: list[Study]) -> str:
    """Every pair with its verdict; p is corrected for all pairs of a test set, bounds are not."""
    out = io.StringIO()
    writer = csv.DictWriter(out, PAIRS, lineterminator="\n")
    writer.writeheader()
    for study in studies:
        for verdict in study.evidence.verdicts:
            writer.writerow(dict(zip(PAIRS, _pair(study, verdict), strict=True)))
    return out.getvalue()


def _pair(study: Study, verdict: Verdict) -> list[Any]:
    d = verdict.difference
    told: list[Any] = [study.group.fingerprint, verdict.metric, verdict.first, verdict.second]
    told += [verdict.sentence, d.mean, d.low, d.high, verdict.p, d.test, *verdict.seeds]
    return [*told, verdict.sample.examples]


def write_parquet(studies: list[Study], path: Path) -> None:
    """The same table with its types; what a run does not have is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, found = records(studies)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({n: [record.get(n) for record in found] for n in names}), path)


def records(studies: list[Study]) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns, and one record a run."""
    found = []
    for study in studies:
        arms = {id(run): arm for arm in study.arms for run in arm.runs}
        for run in [*study.group.runs, *study.group.unfinished]:
            arm = arms.get(id(run))
            bounds = study.interval(arm) if arm else None
            record = _record(run) | {"arm": arm.name if arm else None}
            for end in ("mean", "low", "high"):
                record[f"arm/{study.group.metric}/{end}"] = getattr(bounds, end, None)
            found.append(record)
    return list(dict.fromkeys(name for record in found for name in record)), found


def _record(run: dict[str, Any]) -> dict[str, Any]:
    record = {name: run.get(name) for name in FACTS}
    record |= {"test_fingerprint": test_fingerprint(run), **run.get("metrics", {})}
    record |= {f"baseline/{name}": value for name, value in run.get("baseline", {}).items()}
    record |= {f"cost/{name}": value for name, value in run.get("cost", {}).items()}
    if run.get("cost"):
        charged = price(run)
        record |= {f"cost/charged_{n}": charged[n] for n in ("train_seconds", "total_seconds")}
    return {**record, "folder": run.get("folder", "")}


def svg_text(show: Callable[[Console], None]) -> str:
    """What `show` prints, as a picture that asks no server for fonts."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console

    console = Console(record=True, width=90, file=io.StringIO(), highlight=False)
    show(console)
    local = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S)
    return console.export_svg(title="llmexp compare", code_format=local, unique_id="compare")
