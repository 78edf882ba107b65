"""The loss of a decoder, at the positions that are supervised and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from llmexp.architecture import unwrapped
from llmexp.tasks.base import IGNORE, Batch, Loss


def token_loss(net: nn.Module, batch: Batch) -> Loss:
    """Summed cross entropy of a batch whose `labels[b, t]` is what position t must predict.

    Prompt positions are dropped before the output head, by a hook on it: what a family does with
    its logits afterwards (scaling, softcapping) still happens, and so do the hooks of sharding.
    """
    labels = batch["labels"]  # [B, T]
    supervised = labels != IGNORE
    with _only_at(supervised, net):
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        logits = net(**inputs, use_cache=False).logits  # [count, V]
    if logits.ndim == 3:  # an output head that is not called as a module
        logits = logits[supervised]
    logits, labels = logits.float(), labels[supervised]
    total = F.cross_entropy(logits, labels, reduction="sum")
    return Loss(total, supervised.sum(), logits, labels, batch.get("text_bytes"))


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
