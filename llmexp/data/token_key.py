"""What tokenised rows depend on: all of it goes into the key they are kept under."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.cache.store import digest
from llmexp.data.templates import writes_date
from llmexp.tasks.base import Row, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGE = Path(__file__).parents[1]
# These render, cut and number text, so another version may do it otherwise.
LIBRARIES = ("jinja2", "tokenizers", "transformers")
# Fields that act before rows are canonical: the rows themselves are in the key.
READING = {"train", "validation", "test", "validation_fraction", "test_fraction", "split_seed"}
READING |= {"limit", "columns", "encoding", "delimiter", "quoting", "header", "names", "pattern"}
READING |= {"separator", "overlap", "duplicates", "on_bad_row", "max_bad_rows"}
READING |= {"format", "system", "prompt"}
# Fields of every task that act after rows are tokens.
BATCHING = {"batch_size", "num_workers", "tokens_per_batch", "streaming", "shuffle_buffer"}
# So does one of ours; the others stand in the key by what they lead to.
LATER = BATCHING | {"generation", "labels", "max_length", "template"}
UNREAD = READING | LATER


def key(
    rows: Sequence[Row],
    split: str,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    labels: list[str],
) -> str | None:
    """Changes with everything that encoding and packing could read; None where that is unknown."""
    code, spoken = code_of(type(task)), tokenizer_facts(tokenizer)
    if code is None or spoken is None:
        return None
    return digest(
        {
            "rows": content(rows),
            "may be packed": split == "train",
            "task": encoding_fields(task),
            "tokenizer": spoken,
            "max_length": max_length,
            "labels": labels,
            "code": code,
            "libraries": {name: version(name) for name in LIBRARIES},
        }
    )


def content(rows: Sequence[Row]) -> str:
    """A hash of the rows that are encoded, whatever was said of them before."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, sort_keys=True, default=repr).encode())
        found.update(b"\n")
    return found.hexdigest()


def encoding_fields(task: Task) -> dict[str, str]:
    """Every field but those that are known to play no part: a new one is in the key by itself.

    A class of one's own may read any field when it encodes, so there only those of `Task` that
    say how token rows are batched are left out.
    """
    own = any(not _is_ours(cls) for cls in type(task).__mro__)
    left_out = BATCHING if own else UNREAD
    names = sorted(set(type(task).__pydantic_fields__) - left_out)  # type: ignore[attr-defined]
    return {name: repr(getattr(task, name)) for name in names}


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Its content, not its name; None where no backend or no source tells it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    code = _remote_code(type(tokenizer))
    if backend is None or code is None:
        return None
    state = json.loads(backend.to_str())
    # What the last call cut and padded to, which every call sets anew.
    for passing in ("truncation", "padding"):
        state.pop(passing, None)
    named = ("truncation_side", "padding_side", "split_special_tokens", "model_max_length")
    text = json.dumps(state)
    return {
        "state": hashlib.sha256(text.encode()).hexdigest(),
        "class": type(tokenizer).__qualname__,
        "code": code,
        "template": repr(tokenizer.chat_template),
        "day": date.today().isoformat() if writes_date(tokenizer) else None,
        "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        **{name: repr(getattr(tokenizer, name, None)) for name in named},
    }


def _remote_code(cls: type) -> str | None:
    """A hash of the sources beside a tokenizer's own classes (`model.trust_remote_code`); None
    where a class has none. The version of transformers stands for those of transformers.
    """
    found = hashlib.sha256()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in ("transformers", "builtins"):
            continue
        try:
            files = _sources(Path(inspect.getfile(base)).parent)
        except (OSError, TypeError):
            return None
        for path in files:
            found.update(f"{path.name}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def code_of(cls: type, folders: Sequence[str] = ("tasks", "data")) -> str | None:
    """A hash of the sources in these folders, which tokenise, and of all beside a class of one's
    own; None where a class has none (typed at a prompt).
    """
    files = {path for folder in folders for path in _sources(PACKAGE / folder)}
    for base in cls.__mro__:
        if not _is_ours(base):
            try:
                files.update(_package_of(base))
            except (OSError, TypeError):
                return None
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(f"{path.name}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _package_of(cls: type) -> tuple[Path, ...]:
    """The sources of the whole package that a class is of; of a lone module, those beside it."""
    file, depth = Path(inspect.getfile(cls)), cls.__module__.count(".")
    if file.name == "__init__.py":
        depth += 1
    return _sources(file.parents[max(0, depth - 1)], "**/*.py" if depth else "*.py")


def _is_ours(cls: type) -> bool:
    """Whether a class is this package's, or plain Python's."""
    return cls is object or cls.__module__.startswith(f"{PACKAGE.name}.")


@cache
def _sources(folder: Path, pattern: str = "*.py") -> tuple[Path, ...]:
    return tuple(sorted(folder.glob(pattern)))
