"""Files that come with a checkpoint: data, whoever wrote them; nothing in them names code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

from safetensors import SafetensorError

from llmexp.configure.allow import named
from llmexp.errors import UserError

CONFIGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "adapter_config.json",
    "llmexp.json",
)
# Config fields by which transformers would fetch code; auto_map is the common one, and harmless
# in a file: transformers reads it only where trust_remote_code is true. With megatron_config peft
# imports the module that megatron_core names.
CODE = ("custom_pipelines", "trust_remote_code", "custom_generate", "megatron_config")
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


def broken() -> tuple[type[Exception], ...]:
    """What the libraries raise about files that are not what they should be."""
    from huggingface_hub.errors import StrictDataclassError

    # torch.load says with an UnpicklingError that a file holds more than weights; transformers
    # with a ValueError that a config names no architecture it knows.
    plain = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError)
    return *plain, UnpicklingError, SafetensorError, BadZipFile, StrictDataclassError


def first_line(error: BaseException) -> str:
    """What an error says, as the end of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check(folder: Path) -> None:
    """Refuse a folder one of whose configs names code, or is no JSON."""
    for name in CONFIGS:
        path = folder / name
        if path.is_file():
            for key, why in code_in(read(path)):
                raise UserError(f"{path}: {key}: {why}")


def read(path: Path) -> dict[str, Any]:
    """A config as data."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is not valid JSON: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no config: it holds {type(found).__name__}, not an object")
    return found


def code_in(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Fields of a config, at any depth, by which code would be found and run."""
    for here, name, value in named(node, key):
        elsewhere = name.lstrip("_") in IMPLEMENTATIONS and "/" in str(value)
        if name == "_target_":
            yield here, "a checkpoint's config is data, and names no class"
        elif elsewhere or (name in CODE and value):
            yield here, "a config may not say where code comes from"
