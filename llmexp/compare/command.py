"""`llmexp compare PATH...`: runs side by side, quality beside cost, best first."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.compare import comparison
from llmexp.compare import text as comparison_text
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
    groups = comparison.groups(results, args.metric)
    if args.csv:
        print(comparison_text.csv_text(groups), end="")
    elif args.markdown:
        print(comparison_text.markdown_text(groups), end="")
    elif args.svg:
        print(comparison_text.svg_text(lambda console: _print(groups, console)), end="")
    else:
        _print(groups)
    return 0


def table(results: list[Result], metric: str | None = None) -> None:
    """Print results as `llmexp compare` does, one table for each test set."""
    _print(comparison.groups(results, metric))


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
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="every column, for other programs")
    form.add_argument("--markdown", action="store_true", help="a table for a document")
    form.add_argument("--svg", action="store_true", help="the table as a picture")
    return parser


def _print(groups: Iterable[comparison.Group], console: Console | None = None) -> None:
    from rich.console import Console

    console = console or Console(highlight=False)
    groups = list(groups)
    if len(groups) > 1:
        console.print(comparison.why_apart(groups), soft_wrap=True, markup=False)
    for group in groups:
        console.print(comparison_text.rich_table(group))
        for line in comparison.footnotes(group):
            console.print(line, soft_wrap=True, markup=False)
