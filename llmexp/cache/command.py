"""`llmexp cache [clear]`: what is kept between runs, how large it is, and a way to be rid of it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from llmexp.cache.store import GB, KINDS, UNFINISHED, Kept, kept
from llmexp.config import Cache
from llmexp.errors import UserError, did_you_mean

DAY = 86_400
ACTIONS = ("list", "clear")
ORDER = ("tokens", "features", "hidden states", "unfinished")


def run(argv: list[str]) -> int:
    """List what the cache holds, or clear it."""
    args = _parser().parse_intermixed_args(argv)
    action, overrides = _parted(args.words)
    cache = settings(overrides)
    root = Path(cache.dir).expanduser()
    entries = [entry for entry in kept(root) if _wanted(entry, args)]
    if action == "clear":
        return _clear(root, entries, args.json)
    if args.json:
        print(json.dumps({"dir": str(root), "max_gb": cache.max_gb, **_totals(entries)}, indent=2))
    else:
        print(_page(root, cache.max_gb, entries))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmexp cache", description="List or clear what is kept between runs."
    )
    what = "list (unless said otherwise) or clear; then cache.dir=FOLDER, cache.max_gb=N"
    parser.add_argument("words", nargs="*", metavar="list|clear", help=what)
    parser.add_argument("--kind", choices=KINDS, help="these only; features are states too")
    parser.add_argument("--older-than", type=_days, metavar="DAYS", help="not used for so long")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _parted(words: list[str]) -> tuple[str, list[str]]:
    """What to do, and the overrides."""
    first = words[0] if words else ACTIONS[0]
    if "=" in first:
        return ACTIONS[0], words
    if first not in ACTIONS:
        raise UserError(f"cache: cannot {first}; {did_you_mean(first, ACTIONS)}")
    return first, words[1:]


def _days(text: str) -> float:
    days = float(text)
    if not days >= 0:
        raise ValueError(text)
    return days


def settings(overrides: list[str]) -> Cache:
    """The `cache` node that a run without further overrides would have."""
    from omegaconf import OmegaConf

    from llmexp.configure.compose import conf_dir

    tree: Any = OmegaConf.load(conf_dir() / "run.yaml")
    for word in overrides:
        name, equals, _ = word.partition("=")
        if not equals or name not in ("cache.dir", "cache.max_gb"):
            raise UserError(f"cache: takes cache.dir=FOLDER and cache.max_gb=N, not {word}")
    tree = OmegaConf.merge(tree, OmegaConf.from_dotlist(overrides))
    node: Any = OmegaConf.to_container(tree.cache, resolve=True)
    try:
        return Cache(**node)
    except ValueError as error:
        raise UserError(
            f"cache.max_gb: must be a number above 0, not {tree.cache.max_gb}"
        ) from error


def _wanted(entry: Kept, args: argparse.Namespace) -> bool:
    of_kind = args.kind is None or entry.folder.parent.name == args.kind
    old = args.older_than is None or time.time() - entry.used >= args.older_than * DAY
    return of_kind and old


def _described(entry: Kept) -> dict[str, Any]:
    facts = entry.facts
    done = bool(facts) and not entry.folder.name.endswith(UNFINISHED)
    return {
        "key": entry.folder.name,
        "kind": facts.get("kind", entry.folder.parent.name) if done else "unfinished",
        "bytes": entry.size,
        "used": entry.used or None,
        **{name: facts.get(name) for name in ("model", "data", "split")},
    }


def _totals(entries: list[Kept]) -> dict[str, Any]:
    described = [_described(entry) for entry in entries]
    return {"bytes": sum(entry["bytes"] for entry in described), "entries": described}


def _clear(root: Path, entries: list[Kept], as_json: bool) -> int:
    freed = [entry.remove() for entry in entries]
    gone = [size for size in freed if size is not None]
    busy = len(freed) - len(gone)
    if as_json:
        print(json.dumps({"removed": len(gone), "bytes": sum(gone), "in_use": busy}))
        return 0
    stays = f"; {busy} stay, a process is building them" if busy else ""
    print(f"{root}: {_count(len(gone))} removed, {_size(sum(gone))} freed{stays}")
    return 0


def _page(root: Path, max_gb: float, entries: list[Kept]) -> str:
    found = _totals(entries)
    rows = sorted(found["entries"], key=lambda e: (ORDER.index(e["kind"]), -(e["used"] or 0)))
    lines = [
        f"  {row['kind']:<13} {_size(row['bytes']):>9}  {_ago(row['used']):>8}  {_owner(row)}"
        for row in rows
    ]
    total = f"{_size(found['bytes'])} in {_count(len(rows))}, of cache.max_gb={max_gb:g}"
    return "\n".join([f"{root}: {total}", *lines])


def _owner(row: dict[str, Any]) -> str:
    parts = (row["split"], row["data"], row["model"])
    return "  ".join(str(part) for part in parts if part is not None)


def _count(entries: int) -> str:
    return f"{entries} {'entry' if entries == 1 else 'entries'}"


def _size(count: int) -> str:
    for unit, step in (("GB", GB), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"


def _ago(used: float | None) -> str:
    if used is None:
        return "-"
    seconds = max(0.0, time.time() - used)
    for unit, step in (("d", DAY), ("h", 3600), ("min", 60)):
        if seconds >= step:
            return f"{seconds / step:.0f} {unit}"
    return "now"
