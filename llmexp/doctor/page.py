"""The report as a page for people: 80 columns, the verdict first and last."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from llmexp.doctor import page_data, page_tokens, page_training
from llmexp.doctor.report import Report
from llmexp.errors import shown

# Characters of a value on the page; the whole of it is in --json and in the YAML.
LONGEST = 44
COLOURS = {"ok": "bold green", "warning": "bold yellow", "fails": "bold red"}
SAID = {
    "ok": "ok: nothing to mend",
    "warning": "warning: it runs, and this is worth a look",
    "fails": "fails: it will not work as it is",
}


def page(report: Report) -> None:
    """Print every section there is, in the order of a run."""
    out = Page(Console(highlight=False, soft_wrap=True, emoji=False))
    out.line(f"llmexp doctor  {report.name}  ", (report.verdict, COLOURS[report.verdict]))
    for name, write in SECTIONS.items():
        if report.sections.get(name):
            write(out, report)
    _verdict(out, report)


class Page:
    """Lines no wider than the terminal, in colour where there is one."""

    def __init__(self, console: Console):
        self.console = console
        self.width = min(console.width, 100)
        self.coloured = console.is_terminal and not console.no_color

    def line(self, *parts: str | tuple[str, str]) -> None:
        self.console.print(Text.assemble(*parts))

    def title(self, text: str, more: str = "") -> None:
        self.line("")
        self.line((text, "bold"), (f"  {more}" if more else "", "dim"))

    def wrapped(self, text: str, indent: str = "  ", hanging: str | None = None) -> None:
        hang = indent if hanging is None else hanging
        for line in textwrap.wrap(
            text,
            self.width,
            initial_indent=indent,
            subsequent_indent=hang,
            break_on_hyphens=False,
            break_long_words=True,
        ):
            self.line(line)

    def items(self, items: Iterable[str], indent: str = "    ") -> None:
        """Items side by side, two spaces between, none broken that fits on a line."""
        current = indent
        for item in items:
            if len(current) + len(item) + 2 > self.width and current.strip():
                self.line(current.rstrip())
                current = indent
            for start in range(0, len(item), self.width - len(indent)):
                piece = item[start : start + self.width - len(indent)]
                if len(current) + len(piece) > self.width:
                    self.line(current.rstrip())
                    current = indent
                current += piece
            current += "  "
        if current.strip():
            self.line(current.rstrip())

    def bar(self, value: int, largest: int, room: int) -> str:
        return "█" * max(round(room * value / max(1, largest)), int(value > 0))


def _experiment(out: Page, report: Report) -> None:
    """Values by where they came from: what was chosen last stands first."""
    values = report.sections["experiment"]
    order = {"command line": 0}

    def rank(value: dict[str, Any]) -> tuple[int, str]:
        origin = value["from"]
        last = {"built in": 9}.get(origin, 5)
        return order.get(origin, 1 if "/experiment/" in origin else last), origin

    out.title("experiment", "every value by where it came from")
    for (_, origin), run in groupby(sorted(values, key=rank), key=rank):
        found = [value for value in run if not value["key"].startswith("choices.")]
        groups = {value["key"].partition(".")[0] for value in found}
        # What all keys of a file begin with is said once.
        group = groups.pop() if len(groups) == 1 and origin.count("/") > 1 else ""
        keys = [value["key"].removeprefix(f"{group}.") for value in found]
        out.line("  ", (origin, "cyan"), (f"  {group}." if group else "", "dim"))
        out.items(f"{k}={_item(k, v['value'])}" for k, v in zip(keys, found, strict=True))


def _item(key: str, value: Any) -> str:
    """A value on one line; of a class its own name is enough, the group's YAML has the rest."""
    text = " ".join(_value(value).split())
    if key.endswith("_target_"):
        return text.rpartition(".")[2]
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _value(value: Any) -> str:
    if isinstance(value, dict | list):
        inside = ", ".join(map(_value, value))
        return f"[{inside}]" if isinstance(value, list) else "{" + inside + "}"
    return value if isinstance(value, str) and value else shown(value)


def _dead(out: Page, report: Report) -> None:
    out.title("dead knobs", "set, and read by nothing")
    for knob in report.sections["dead_knobs"]:
        out.wrapped(f"{knob['key']} ({knob['from']}): {knob['reason']}", "  ", "    ")


def _notes(out: Page, report: Report) -> None:
    out.title("notes", "said while the data was read")
    for note in report.sections["notes"]:
        out.wrapped(note, "  ", "    ")


def _verdict(out: Page, report: Report) -> None:
    out.title("verdict")
    for number, finding in enumerate(report.findings, 1):
        colour = COLOURS[finding.level]
        hang = "     "
        lines = textwrap.wrap(
            f"{finding.level}: {finding.message}",
            out.width - 5,
            break_on_hyphens=False,
        )
        for i, line in enumerate(lines):
            if i == 0:
                level, _, rest = line.partition(":")
                out.line(f"  {number}. ".ljust(5), (level, colour), f":{rest}")
            else:
                out.line(hang, line)
        if finding.fix is not None:
            out.wrapped(finding.fix, f"{hang}fix: ", f"{hang}     ")
    out.line((SAID[report.verdict], COLOURS[report.verdict]))


SECTIONS = {
    "experiment": _experiment,
    "dead_knobs": _dead,
    "sources": page_data.sources,
    "rows": page_data.rows,
    "labels": page_data.labels,
    "notes": _notes,
    "splits": page_tokens.splits,
    "tokens": page_tokens.tokens,
    "examples": page_tokens.examples,
    "training": page_training.training,
}
