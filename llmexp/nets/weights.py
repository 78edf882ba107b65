"""A hash of what a network computes: its weights, and the config that says how they are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

# Config fields that change no hidden state of a network in eval mode.
IRRELEVANT = {
    "_name_or_path",
    "architectures",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "tie_word_embeddings",
    "use_cache",
}


def fingerprint(net: nn.Module, config: Any, without: Iterable[nn.Module] = ()) -> str:
    """sha256 over parameters, buffers and config; equal weights under equal names are equal.

    What is not read is named, so that a module nobody thought of counts.
    """
    found = hashlib.sha256()
    facts = {
        name: value
        for name, value in config.to_dict().items()
        if name not in IRRELEVANT and "drop" not in name
    }
    found.update(json.dumps(facts, sort_keys=True, default=str).encode())
    found.update(transformers.__version__.encode())
    found.update(type(net).__name__.encode())
    unread = {id(module) for module in without}
    paths = tuple(f"{path}." for path, module in net.named_modules() if id(module) in unread)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if name.startswith(paths):
            continue
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(_bytes(tensor))
        # What bitsandbytes packs into a parameter means nothing without its scales.
        packed = getattr(tensor, "quant_state", None)
        for part in packed.as_dict(packed=True).values() if packed is not None else ():
            found.update(_bytes(part))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""
