"""`llmexp predict RUN [TEXT ...]`: predictions in the terminal, or as JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from llmexp import quiet
from llmexp.errors import UserError
from llmexp.predict.load import load, model_folder, read_facts

# As many scores as fit beside the prediction without hiding it.
TOP = 3


def run(argv: list[str]) -> int:
    """Predict for the texts of the command line, a file, or standard input."""
    args = _parser().parse_intermixed_args(argv)
    path = Path(args.run)
    # What is wrong with the folder is said before anything is read or imported.
    read_facts(model_folder(path.expanduser()))
    texts = _texts(args)
    if not texts:
        raise UserError("there is no text: give some, or --file F, or lines on standard input")
    quiet.libraries()
    answers = load(path).predict(texts)
    for text, answer in zip(texts, answers, strict=True):
        if args.json:
            print(json.dumps({"input": text, **answer}, ensure_ascii=False))
        else:
            print(_shown(text, answer))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmexp predict", description="Predict with what a run has trained."
    )
    parser.add_argument("run", help="a run folder, or its model/ folder")
    parser.add_argument("texts", nargs="*", help="texts; none reads lines from standard input")
    parser.add_argument("--file", type=Path, help="a .txt file (a text a line) or a .jsonl file")
    parser.add_argument("--column", default="text", help="which field of a .jsonl file is the text")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _texts(args: argparse.Namespace) -> list[str]:
    if args.texts and args.file:
        raise UserError("give texts or --file, not both")
    if args.texts:
        return list(args.texts)
    if args.file:
        return _from_file(args.file, args.column)
    if sys.stdin.isatty():
        return []
    return _lines(sys.stdin.read())


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _from_file(path: Path, column: str) -> list[str]:
    if not path.is_file():
        raise UserError(f"--file: there is no file {path}")
    lines = _lines(path.read_text(encoding="utf-8"))
    if path.suffix != ".jsonl":
        return lines
    return [_field(line, column, f"{path}:{n}") for n, line in enumerate(lines, 1)]


def _field(line: str, column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where}: no text in {column!r}; it has {there}; choose with --column")
    return str(row[column])


def _shown(text: str, answer: dict[str, Any]) -> str:
    """One text for people: what is predicted, how sure, and what it was about."""
    short = " ".join(text.split())
    short = short if len(short) <= 76 else f"{short[:73]}..."
    scores = sorted(answer.get("scores", {}).items(), key=lambda item: -item[1])[:TOP]
    if not scores:
        return f"> {short}\n{answer['prediction']}\n"
    beside = "   ".join(f"{name} {value:.3f}" for name, value in scores)
    return f"> {short}\n  {answer['prediction']}   ({beside})\n"
