"""Where a decoder classifies by its last token, the last block computes that position alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llmexp.nets.architecture import backbone, blocks, unwrapped
from llmexp.nets.last_block import kernel_of, replaced, specimens


def read_last(net: Any) -> bool:
    """Let the last block compute where a row ends, and return it at every position [B, T, H].

    As `read_first`; the head then finds the same states wherever it looks. Not where activations
    are recomputed: by then another batch may have said where its rows end.
    """
    block, kernel = blocks(net)[-1], kernel_of(net)
    known = KNOWN.get(type(block).__name__)
    pad_id = unwrapped(net).config.get_text_config().pad_token_id
    if None in (known, kernel, pad_id) or getattr(block, "gradient_checkpointing", False):
        return False
    assert known is not None
    ends = _Ends(pad_id)
    handle = backbone(net).register_forward_pre_hook(partial(_note, ends), with_kwargs=True)
    done = replaced(net, partial(known, block, kernel, ends), _specimens(net, pad_id))
    if not done:
        handle.remove()
    return done


class _Ends:
    """The last token of each row [B] that is no padding, in the batch that is being computed."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id
        self.at = torch.empty(0)

    def of(self, states: Tensor) -> Tensor:
        """What [B, T, ...] or [1, T, ...] holds there: [B, 1, ...]."""
        states = states.expand(len(self.at), *states.shape[1:])
        return states[torch.arange(len(self.at), device=states.device), self.at][:, None]

    def mask(self, mask: Tensor | None, keys: Tensor) -> Tensor:
        """What is added to the scores [B, 1, 1, T] of keys [B, heads, T, D], or which count."""
        if mask is not None:
            return self.of(mask.transpose(1, 2)).transpose(1, 2)
        later = torch.arange(keys.shape[2], device=keys.device) > self.at[:, None]
        lowest = torch.finfo(keys.dtype).min
        return torch.zeros_like(later, dtype=keys.dtype).masked_fill(later, lowest)[:, None, None]


def _note(ends: _Ends, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    ids = args[0] if args else kwargs["input_ids"]
    ends.at = (torch.arange(ids.shape[1], device=ids.device) * (ids != ends.pad_id)).argmax(-1)


def _of_llama(
    block: Any,
    kernel: Any,
    ends: _Ends,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    *rest: Any,
    position_embeddings: tuple[Tensor, Tensor],
    **kwargs: Any,
) -> Tensor:
    """Llama's block and those that are built like it; Qwen3's norms its queries and keys."""
    attention, seen = block.self_attn, block.input_layernorm(hidden_states)

    def heads(project: nn.Module, norm: str, states: Tensor) -> Tensor:
        states = project(states).unflatten(-1, (-1, attention.head_dim))
        return getattr(attention, norm, nn.Identity())(states).transpose(1, 2)

    query = heads(attention.q_proj, "q_norm", ends.of(seen))  # [B, heads, 1, D]
    key = heads(attention.k_proj, "k_norm", seen)  # [B, heads, T, D]
    value = heads(attention.v_proj, "", seen)
    rotate = sys.modules[type(block).__module__].apply_rotary_pos_emb
    # It turns two at once, of equal length: here one has no heads.
    query, _ = rotate(query, query[:, :0], *(ends.of(part) for part in position_embeddings))
    _, key = rotate(key[:, :0], key, *position_embeddings)
    dropout = attention.attention_dropout if attention.training else 0.0
    mask = ends.mask(attention_mask, key)
    out, _ = kernel(attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling)
    found = ends.of(hidden_states) + attention.o_proj(out.flatten(2))
    found = found + block.mlp(block.post_attention_layernorm(found))
    return found.expand_as(hidden_states)


def _of_gpt2(
    block: Any,
    kernel: Any,
    ends: _Ends,
    hidden_states: Tensor,
    past_key_values: Any = None,
    attention_mask: Tensor | None = None,
    *rest: Any,
    **kwargs: Any,
) -> Tensor:
    attention = block.attn
    # One layer makes all three.
    parts = attention.c_attn(block.ln_1(hidden_states)).split(attention.split_size, dim=2)
    query, key, value = (
        states.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for states in (ends.of(parts[0]), *parts[1:])
    )
    dropout = attention.attn_dropout.p if attention.training else 0.0
    mask = ends.mask(attention_mask, key)
    out, _ = kernel(attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling)
    seen = attention.resid_dropout(attention.c_proj(out.flatten(2)))
    found = ends.of(hidden_states) + seen
    found = found + block.mlp(block.ln_2(found))
    return found.expand_as(hidden_states)


# By the class of the block: how it goes with one position.
KNOWN: dict[str, Callable[..., Tensor]] = {
    "LlamaDecoderLayer": _of_llama,
    "MistralDecoderLayer": _of_llama,
    "Qwen2DecoderLayer": _of_llama,
    "Qwen3DecoderLayer": _of_llama,
    "GPT2Block": _of_gpt2,
}


def _specimens(net: Any, pad_id: int) -> dict[str, Tensor]:
    """Padded rows, of which the longest ends in a token that looks like padding."""
    batch = specimens(net)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    ids.masked_fill_(mask == 0, pad_id)
    ids[mask.sum(1).argmax(), -1] = pad_id
    return batch
