"""The loss of a decoder, at the positions that are supervised and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import is_flash_attention_requested

from llmexp.nets.architecture import unwrapped
from llmexp.tasks.base import IGNORE, Batch, Loss
from llmexp.tasks.chunked_loss import (
    chunked_cross_entropy,
    chunked_each,
    inseparable,
    returned_as_given,
    worthwhile,
)
from llmexp.tasks.cross_entropy import cross_entropy, each, wide


def token_loss(net: nn.Module, batch: Batch, whole: bool = False) -> Loss:
    """Summed cross entropy of a batch whose `labels[b, t]` is what position t must predict.

    Prompt positions are dropped before the output head, by a hook on it: what a family does with
    its logits afterwards (scaling, softcapping) still happens, and so do the hooks of sharding.
    Many logits are never there together, unless `whole` asks for them.
    """
    inputs, labels, at = _inputs(net, batch)  # labels [B, T], at [count]
    truth, spelled = _picked(labels, at), batch.get("text_bytes")
    # Its length is known on the host: nothing waits for the device.
    count = torch.full((), len(at), device=labels.device)
    if not whole and _in_chunks(net, inputs, at):
        with _only_at(at, net, 0) as head:
            net(**inputs, use_cache=False)
        total, right = chunked_cross_entropy(head.module, head.hidden, truth)
        found = partial(chunked_each, head.module, head.hidden, truth)
        rows = partial(_rows, batch, labels, at, found)
        return Loss(total, count, None, truth, spelled, right, rows)
    logits = _logits(net, inputs, at).float()
    rows = partial(_rows, batch, labels, at, partial(each, logits, truth))
    return Loss(cross_entropy(logits, truth), count, logits, truth, spelled, rows=rows)


def _rows(
    batch: Batch, labels: Tensor, at: Tensor, found: Callable[[], tuple[Tensor, Tensor]]
) -> Tensor | None:
    """What each row of the batch adds to the loss and to the right answers [B, 2].

    None of packs that were joined to one row.
    """
    if labels.shape[0] != batch["labels"].shape[0]:
        return None
    both = torch.stack(found(), dim=-1).to(wide(labels.device))  # [count, 2]
    sums = both.new_zeros(labels.shape[0], 2)
    return sums.index_add_(0, at // labels.shape[1], both)


def _picked(values: Tensor, at: Tensor) -> Tensor:
    """[count, ...] of [B, T, ...] at flat positions [count]."""
    every = values.flatten(0, 1)
    return every if len(at) == len(every) else every.index_select(0, at)


def _logits(net: nn.Module, inputs: dict[str, Tensor], at: Tensor) -> Tensor:
    """[count, V] at the supervised positions."""
    with _only_at(at, net):
        # Only without a cache does transformers tell packed documents apart.
        logits: Tensor = net(**inputs, use_cache=False).logits
    # Of three dimensions where the output head is not called as a module.
    return _picked(logits, at) if logits.ndim == 3 else logits


def whole_logits(net: Any) -> str | None:
    """Why the logits of many positions would all be there at once, or None: they never are."""
    head = unwrapped(net).get_output_embeddings()
    why = inseparable(head)
    if why is None:
        # Different tokens: the states of a padding token may be zero, and so would its logits.
        ids = torch.arange(min(8, head.weight.shape[0]), device=head.weight.device)[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not _as_given(net, inputs, ids[0]):
            why = "the network changes its logits after the output head"
    return why


def _in_chunks(net: nn.Module, inputs: dict[str, Tensor], at: Tensor) -> bool:
    """Whether the logits are many, and are all that the network does to its hidden states."""
    module = unwrapped(net).get_output_embeddings()
    return worthwhile(module, len(at)) and _as_given(net, inputs, at)


def _as_given(net: nn.Module, inputs: dict[str, Tensor], at: Tensor) -> bool:
    """Whether the network returns what its output head gives."""

    def few() -> tuple[Tensor, Tensor]:
        with _only_at(at, net, 8) as head:
            returned = net(**inputs, use_cache=False).logits
        return head.given, returned

    return returned_as_given(unwrapped(net).get_output_embeddings(), few)


def _inputs(net: Any, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """What the network reads, the labels of its positions, and which are supervised [count].

    Packs come without a mask: from positions that begin again transformers makes one that keeps
    documents apart. Flash attention does so for a single row, so there all rows become one.
    """
    ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"]
    at = _known(batch, "supervised", labels != IGNORE)
    if "position_ids" not in batch:
        return {"input_ids": ids, "attention_mask": mask}, labels, at
    inputs = {"input_ids": ids, "position_ids": batch["position_ids"]}
    if not is_flash_attention_requested(unwrapped(net).config.get_text_config()):
        return inputs, labels, at
    real = _known(batch, "real", mask.bool())
    joined = {name: _picked(value, real)[None] for name, value in inputs.items()}
    return joined, _picked(labels, real)[None], torch.searchsorted(real, at)


def _known(batch: Batch, name: str, where: Tensor) -> Tensor:
    """Flat positions that collating counted; of a part of a batch the device is asked."""
    return batch[name] if name in batch else flat(where)


def flat(where: Tensor) -> Tensor:
    """The positions [count] of what is true in [B, T], row after row."""
    return where.flatten().nonzero()[:, 0]


@dataclass
class _Head:
    """The output head, what it was to see [count, H], and what it gave of it."""

    module: nn.Module
    hidden: Tensor = field(default_factory=Tensor)
    given: Tensor = field(default_factory=Tensor)


@contextmanager
def _only_at(at: Tensor, net: Any, most: int | None = None) -> Iterator[_Head]:
    """Inside, the output head sees only the supervised hidden states of [B, T, H], `most` first."""
    head = _Head(unwrapped(net).get_output_embeddings())

    def select(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = inputs
        head.hidden = _picked(hidden, at)
        return (head.hidden[:most], *rest)

    def keep(module: nn.Module, inputs: tuple[Any, ...], given: Tensor) -> None:
        head.given = given

    handles = [head.module.register_forward_pre_hook(select)]
    handles.append(head.module.register_forward_hook(keep))
    try:
        yield head
    finally:
        for handle in handles:
            handle.remove()
