"""`llmexp compare PATH...`: runs side by side, quality beside cost, best first."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.compare import comparison, text
from llmexp.compare.apart import why_apart
from llmexp.compare.conclusions import conclusions, remarks
from llmexp.compare.study import Study, study
from llmexp.compare.table import table as table_of
from llmexp.errors import UserError
from llmexp.jobs.results import FILE

if TYPE_CHECKING:
    from rich.console import Console

Result = dict[str, Any]


def main(argv: list[str]) -> int:
    """Print the comparison of every run below the paths; returns the exit code."""
    args = _parser().parse_args(argv)
    found = {r["folder"]: r for path in args.paths for r in find(Path(path))}
    results = list(found.values())
    if not results:
        raise UserError(f"there is no run ({FILE}) below {', '.join(args.paths)}")
    studies = studied(results, args.metric, args.by.split(",") if args.by else None)
    if args.html:
        from llmexp.compare.report.page import html_text
        from llmexp.jobs.results import write_atomic

        page = Path(args.html)
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(page, html_text(studies))
        print(f"{page}: {len(results)} runs; open it in a browser")
    elif args.parquet:
        text.write_parquet(studies, Path(args.parquet))
        print(f"{len(results)} runs are in {args.parquet}; --pairs has what is proven")
    elif args.csv:
        print(text.csv_text(studies), end="")
        print("every pair with its verdict: --pairs", file=sys.stderr)
    elif args.pairs:
        print(text.pairs_text(studies), end="")
    elif args.markdown:
        print(text.markdown_text(studies), end="")
    elif args.svg:
        print(text.svg_text(lambda console: _print(studies, console)), end="")
    else:
        _print(studies)
    return 0


def studied(
    results: list[Result], metric: str | None = None, by: list[str] | None = None
) -> list[Study]:
    """One study for each test set."""
    found = comparison.groups(results, metric)
    early = [run for group in found if not group.fingerprint for run in group.unfinished]
    return [study(group, by, early if group.fingerprint else None) for group in found]


def table(results: list[Result], metric: str | None = None) -> None:
    """Print results as `llmexp compare` does, one table for each test set."""
    _print(studied(results, metric))


def find(path: Path) -> list[Result]:
    """Every result at or below a path, each with its `folder`; hidden folders are left out."""
    if not path.exists():
        raise UserError(f"there is no {path}")
    files = [path] if path.is_file() else sorted(path.rglob(FILE))
    shown = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    return [result for file in shown if (result := _read(file)) is not None]


def _read(file: Path) -> Result | None:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    # Other programs write files of this name too.
    if not isinstance(result, dict) or "status" not in result:
        return None
    folder, here = file.parent.resolve(), Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return {**result, "folder": str(shown)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmexp compare", description="Runs side by side, quality and cost, best first."
    )
    parser.add_argument("paths", nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--metric", metavar="KEY", help="what best means, such as test/f1_macro")
    parser.add_argument(
        "--by", metavar="KEY,...", help="what makes runs one arm, such as strategy or strategy.rank"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="every column, for other programs")
    form.add_argument("--pairs", action="store_true", help="the verdict on every pair, as CSV")
    form.add_argument("--markdown", action="store_true", help="a table for a document")
    form.add_argument("--svg", action="store_true", help="the table as a picture")
    form.add_argument("--html", metavar="FILE", help="a page with tables, pictures and examples")
    form.add_argument("--parquet", metavar="FILE", help="every column with its type, into a file")
    return parser


def _print(studies: Iterable[Study], console: Console | None = None) -> None:
    from rich.console import Console

    console = console or Console(highlight=False)
    studies = list(studies)
    apart = why_apart([one.group for one in studies])
    if apart:
        console.print(apart, soft_wrap=True, markup=False)
    for one in studies:
        shown = table_of(one).fitting(console.width)
        console.print(text.rich_table(shown, console.width))
        for line in [*shown.notes, *remarks(one)]:
            console.print(line, soft_wrap=True, markup=False)
        for line in conclusions(one):
            console.print(line, markup=False)
