"""What a run was begun with, kept in its checkpoints: with anything else it would be another."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmexp.cache.checksum import checksum
from llmexp.data.stream_files import sampled
from llmexp.data.token_key import tokenizer_facts
from llmexp.errors import UserError
from llmexp.jobs import changes
from llmexp.jobs.job import CONFIG, read_config

if TYPE_CHECKING:
    from llmexp.context import Context

log = logging.getLogger("llmexp")
# Another version of these may compute other bits of the same numbers.
LIBRARIES = ("torch", "numpy", "transformers", "tokenizers", "pytorch-lightning", "peft")


class Beginning:
    """Config, data, model and machine of a run, as its folder and the files it reads have them."""

    def __init__(self, net: nn.Module, trained: set[str], context: Context):
        self.context = context
        self.inputs = {f"data.{name}": p for name, p in context.examples.fingerprint.items()}
        streamed = Path(context.task.train)
        if context.examples.stream is not None and streamed.is_file():
            # The fingerprint is that of its first rows.
            self.inputs["data.train's file"] = sampled(streamed)
        frozen = ((n, p) for n, p in net.named_parameters() if n not in trained)
        # Before a device, a precision or a shard makes anything else of them.
        self.inputs["the model's weights that are not trained"] = weights(frozen)
        facts = context.config.to_dict()
        facts.pop("_name_or_path", None)
        self.inputs["the model's config"] = _hashed(facts)
        self.inputs["the tokenizer"] = _hashed(tokenizer_facts(context.tokenizer))
        self.machine = machine()
        self.config = self._config()

    def state(self) -> dict[str, Any]:
        """As a checkpoint keeps it: plain values."""
        return {
            "config": json.dumps(self._config()),
            "inputs": self.inputs,
            "machine": self.machine,
        }

    def check(self, saved: dict[str, Any]) -> None:
        """Refuse to go on with other inputs; note what may change the last bits."""
        folder = self.context.folder
        changes.refuse(folder, changes.serious(json.loads(saved["config"]), self.config))
        changes.refuse_inputs(folder, saved["inputs"], self.inputs)
        for remark in resumed_otherwise(saved["machine"], self.machine):
            log.warning(remark)
            self.context.examples.notes.append(remark)

    def _config(self) -> dict[str, Any]:
        """Of the run folder; {} where a module is used without one."""
        if not (self.context.folder / CONFIG).is_file():
            return {}
        tree = changes.flat(read_config(self.context.folder)[0])
        return {key: value for key, value in tree.items() if not changes.is_harmless(key)}


def resumed_otherwise(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Remarks on what computes a run and did not compute its beginning."""
    return [
        f"resumed with {name} {value} after {before.get(name)}: the last bits may differ"
        for name, value in now.items()
        if before.get(name) != value
    ]


def same_world(before: int, now: int) -> None:
    """Refuse to go on with another number of processes."""
    if before != now:
        raise UserError(
            f"hardware.devices: this run was trained by {before} "
            f"process{'es' if before > 1 else ''} and would go on with {now}, "
            f"which changes its updates; resume it with {before}, or start a run of its own"
        )


def weights(named: Iterable[tuple[str, Tensor]]) -> str:
    """A hash over names, types and values; those packed into 4 bits with their scales."""
    found = hashlib.sha256()
    for name, tensor in named:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        packed = getattr(tensor, "quant_state", None)
        parts = packed.as_dict(packed=True).values() if packed is not None else ()
        for part in () if tensor.is_meta else (tensor, *parts):
            found.update(checksum(part).encode())
    return found.hexdigest()


def machine() -> dict[str, str]:
    """What computes: the same numbers in another order of additions are other bits."""
    there = torch.cuda.is_available()
    return {
        **{name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if there else platform.machine(),
    }


def _hashed(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
