"""One vector for a text out of the vectors of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from llmexp.models import HFModel

Pooling = Literal["cls", "mean", "last"]


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """[B, T, H] and a right-padded mask [B, T] -> [B, H], in float32."""
    hidden = hidden.float()
    if pooling == "cls":
        return hidden[:, 0]
    lengths = mask.sum(1)
    if pooling == "last":
        return hidden[range(len(hidden)), lengths - 1]
    return (hidden * mask[..., None]).sum(1) / lengths[:, None]


def natural(model: HFModel, config: PretrainedConfig) -> Pooling:
    """What the model's YAML names, else mean for an encoder and last for a decoder."""
    if model.pooling is not None:
        return model.pooling
    if model.kind is not None:
        return "last" if model.kind == "decoder" else "mean"
    names = config.architectures or []
    return "last" if any(n.endswith(("CausalLM", "LMHeadModel")) for n in names) else "mean"
