"""Tokenised splits between runs: found by everything they depend on, else encoded and kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.cache.store import Kept, Store, full_disk
from llmexp.data import token_key
from llmexp.data.token_file import TokenFile, as_table, checksum, write
from llmexp.tasks.base import Encoded, Row

if TYPE_CHECKING:
    from llmexp.context import Context

log = logging.getLogger("llmexp")
FILE = "tokens.arrow"


def encoded(context: Context, rows: list[Row], split: str) -> Encoded:
    """The token rows of a split, with the counts of when they were made."""
    if not context.cache.enabled or not rows:
        return _encode(context, rows, split)
    key = _key(context, rows, split)
    if key is None:
        return _encode(context, rows, split)
    store = Store(context.cache, "tokens")
    with store.lock(key):
        kept = store.find(key)
        found = _open(kept) if kept is not None else None
        return found or _build(store, key, context, rows, split)


def kept_tokens(context: Context, rows: list[Row], split: str) -> Encoded | None:
    """What an earlier run left of a split, if it did; nothing is written or marked as used."""
    if not context.cache.enabled or not rows:
        return None
    key = _key(context, rows, split)
    folder = Path(context.cache.dir).expanduser() / "tokens" / (key or "")
    kept = Kept(folder)
    return _open(kept) if key is not None and kept.facts else None


def _key(context: Context, rows: list[Row], split: str) -> str | None:
    # A tokenizer gets its template where a task prepares it: before that the key would not tell.
    context.task.prepare(context.tokenizer)
    labels, longest = context.examples.labels, context.max_length
    return token_key.key(rows, split, context.task, context.tokenizer, longest, labels)


def about(context: Context, split: str) -> dict[str, Any]:
    """What a list of the cache says an entry belongs to."""
    source = getattr(context.task, split) or context.task.train
    return {"model": context.model.path, "data": source, "split": split}


def _encode(context: Context, rows: list[Row], split: str) -> Encoded:
    task, longest = context.task, context.max_length
    made = task.encode(rows, context.tokenizer, longest, context.examples.labels)
    return task.packed(made, longest) if split == "train" and made.rows else made


def _open(kept: Kept) -> Encoded | None:
    """The kept rows; None, and a word about it, where the file is not what was written."""
    path, facts = kept.folder / FILE, kept.facts
    if not path.is_file() or checksum(path) != facts.get("sha256"):
        log.warning(f"tokens are made again: {path} is not what was written")
        return None
    return Encoded(TokenFile(path), facts["counts"])


def _build(store: Store, key: str, context: Context, rows: list[Row], split: str) -> Encoded:
    made = _encode(context, rows, split)
    table = as_table(made.rows) if made.rows else None
    if table is None:
        return made
    if (why := store.refusal(table.nbytes)) is not None:
        context.examples.notes.append(f"{split}: tokens are not kept: {why}")
        return made
    with store.publishing(key, table.nbytes) as (folder, facts):
        path: Path = folder / FILE
        try:
            write(table, path)
        except OSError as error:
            raise full_disk(table.nbytes, error) from error
        facts |= {"kind": "tokens", **about(context, split), "rows": len(made.rows)}
        facts |= {"counts": made.counts, "sha256": checksum(path)}
    # Read back as a later run will: the same rows from the same place, and memory is given back.
    return Encoded(TokenFile(store.folder / key / FILE), made.counts)
