"""The loss of a decoder, at the positions that are supervised and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import is_flash_attention_requested

from llmexp.nets.architecture import unwrapped
from llmexp.tasks.base import IGNORE, Batch, Loss
from llmexp.tasks.cross_entropy import cross_entropy


def token_loss(net: nn.Module, batch: Batch) -> Loss:
    """Summed cross entropy of a batch whose `labels[b, t]` is what position t must predict.

    Prompt positions are dropped before the output head, by a hook on it: what a family does with
    its logits afterwards (scaling, softcapping) still happens, and so do the hooks of sharding.
    """
    inputs, labels = _inputs(net, batch)  # labels [B, T]
    supervised = labels != IGNORE
    with _only_at(supervised, net):
        # Only without a cache does transformers tell packed documents apart.
        logits = net(**inputs, use_cache=False).logits  # [count, V]
    if logits.ndim == 3:  # an output head that is not called as a module
        logits = logits[supervised]
    logits, labels = logits.float(), labels[supervised]
    return Loss(
        cross_entropy(logits, labels), supervised.sum(), logits, labels, batch.get("text_bytes")
    )


def _inputs(net: Any, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """What the network reads, and the labels of its positions.

    Packs come without a mask: from positions that begin again transformers makes one that keeps
    documents apart. Flash attention does so for a single row, so there all rows become one.
    """
    ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"]
    if "position_ids" not in batch:
        return {"input_ids": ids, "attention_mask": mask}, labels
    inputs = {"input_ids": ids, "position_ids": batch["position_ids"]}
    if not is_flash_attention_requested(unwrapped(net).config.get_text_config()):
        return inputs, labels
    real = mask.bool()
    return {name: value[real][None] for name, value in inputs.items()}, labels[real][None]


@contextmanager
def _only_at(supervised: Tensor, net: Any) -> Iterator[None]:
    """Inside, the output head sees only the hidden states [B, T, H] that are supervised."""

    def select(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = inputs
        return (hidden[supervised], *rest)

    head = unwrapped(net).get_output_embeddings()
    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
