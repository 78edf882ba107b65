"""Tokens on the page: lengths, marks, and rows with what is learned coloured or bracketed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmexp.doctor.examples import shortened

if TYPE_CHECKING:
    from llmexp.doctor.page import Page
    from llmexp.doctor.report import Report

# Where there is no colour.
OPEN, CLOSE = "[[", "]]"
WHOLE = 10**9


def splits(out: Page, report: Report) -> None:
    """What tokenising leaves of each split, and what it drops or cuts."""
    out.title("splits", "what is left of them as tokens")
    for name, found in report.sections["splits"].items():
        whole = found["looked_at"] == found["rows"]
        of = f"{found['rows']:,} rows" if whole else f"{found['looked_at']:,} rows drawn"
        said = [of, *([f"{found['too_long']:,} too long"] if found["too_long"] else [])]
        said += named(found["counts"])
        out.wrapped(f"{name:<11} {', '.join(said)}; {found['left']:,} to read", hanging=" " * 14)


def named(counts: dict[str, Any]) -> list[str]:
    """Counts as words."""
    return [f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()]


def tokens(out: Page, report: Report) -> None:
    """Shares, marks and a histogram of lengths."""
    found = report.sections["tokens"]
    sample = found["sample"]
    of = f"all {sample:,} train rows" if sample == found["rows"] else f"{sample:,} train rows drawn"
    out.title("tokens", f"{of}, at most {found['max_length']:,} a {_unit(found)}")
    if report.sections.get("labels"):
        out.line("  learned     one label a row")
    else:
        share = found["learned_share"]
        out.line(
            f"  learned     {found['learned_tokens']:,} of {found['tokens']:,} tokens ({share:.1%})"
        )
    for line in _marks(found):
        out.line("  ", line)
    what = ", ".join(named(found["counts"]))
    out.line(f"  overflow    {_overflow(found, what)}")
    out.line(f"  masked      {found['fully_masked']} rows in which nothing is learned")
    if found["packing"]:
        out.line(f"  packing     {_packing(found)}")
    if found["kept"]:
        rows, count = found["kept"]["rows"], found["kept"]["tokens"]
        made = "packs" if found["packing"] else f"{_unit(found)}s"
        out.line(
            f"  kept        all of train, by an earlier run: {rows:,} {made}, {count:,} tokens"
        )
    lengths = found["lengths"]
    out.line(f"  lengths     median {lengths['median']:,}, longest {lengths['longest']:,}")
    largest = max(row["rows"] for row in found["histogram"])
    for row in found["histogram"]:
        end = f"{row['up_to']:,}" if row["up_to"] < WHOLE else "more"
        mark = "" if found["in_blocks"] or row["up_to"] <= found["max_length"] else "  over"
        bar = out.bar(row["rows"], largest, out.width - 34)
        out.line(f"  {'to ' + end:>12} {row['rows']:>7,}  {bar}", (mark, "yellow"))


def _packing(found: dict[str, Any]) -> str:
    packing = found["packing"]
    of = "train" if found["kept"] or found["sample"] == found["rows"] else "those drawn"
    rows, packs, fill = packing["packed"], packing["packs"], packing["fill"]
    return f"{rows:,} {_unit(found)}s of {of} in {packs:,} packs, {fill:.1%} full"


def _unit(found: dict[str, Any]) -> str:
    return "block" if found["in_blocks"] else "row"


def _overflow(found: dict[str, Any], what: str) -> str:
    if found["in_blocks"]:
        return f"none: {what} are joined and cut into {found['encoded']:,} blocks"
    said = f"{found['too_long']:,} rows longer than {found['max_length']:,} tokens"
    return f"{said}: {what or 'cut at their end'}" if found["too_long"] else said


def _marks(found: dict[str, Any]) -> list[str]:
    marks, rows = found["marks"], found["encoded"]
    lines = []
    if marks["bos"] is not None:
        counts = ", ".join(f"{n} in {rows_n:,}" for n, rows_n in marks["bos_per_row"].items())
        lines.append(f"{'BOS ' + marks['bos']:<11} {counts} {_unit(found)}s")
    if marks["ends"]:
        names = " ".join(marks["ends"])
        lines.append(f"{'EOS ' + names:<11} learned in {marks['end_learned']:,} of {rows:,} rows")
    return lines


def examples(out: Page, report: Report) -> None:
    """Each row as the network gets it."""
    coloured = "learned tokens in green, special tokens in magenta"
    out.title("examples", coloured if out.coloured else f"learned tokens in {OPEN} {CLOSE}")
    for number, example in enumerate(report.sections["examples"], 1):
        parts: list[str | tuple[str, str]] = [f"{number:>3}. "]
        for piece in example["pieces"]:
            parts.append(_piece(out, piece))
        if example["label"] is not None:
            label = {"text": example["label"], "learned": True, "special": False}
            parts += [" → ", _piece(out, label)]
        _flow(out, parts)


def _piece(out: Page, piece: dict[str, Any]) -> str | tuple[str, str]:
    text = shortened(piece)
    if not out.coloured:
        return f"{OPEN}{text}{CLOSE}" if piece["learned"] else text
    style = "bold " if piece["learned"] else ""
    if piece["special"]:
        return text, f"{style}magenta"
    return (text, "bold green") if piece["learned"] else text


def _flow(out: Page, parts: list[str | tuple[str, str]]) -> None:
    """A styled paragraph cut at the width, later lines indented."""
    from rich.text import Text

    whole = Text.assemble(*parts)
    room = out.width - 5
    head, rest = whole[:5], whole[5:]
    for n, line in enumerate(rest.wrap(out.console, room, overflow="fold")):
        line.rstrip()
        out.console.print(Text.assemble(head if n == 0 else " " * 5, line))
