"""Where a classifier reads one position, the last block computes that position and no other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llmexp.errors import UserError
from llmexp.nets.architecture import blocks, new_head_names, unwrapped
from llmexp.nets.freezing import beside_blocks
from llmexp.nets.prefix import evaluating

# Tokens of the rows on which it is proven: odd and even, so that padding stands in some.
LENGTHS = (12, 1, 17, 6)
# Kernels that take a query of one position beside keys of all.
KERNELS = ("sdpa", "eager")
# Of a block that returns one position, the projections that still see all of them.
OF_ALL = {"key", "value", "k_lin", "v_lin", "k_proj", "v_proj", "c_attn"}


def read_first(net: Any) -> bool:
    """Let the last block return [B, 1, H], the first position, where logits stay what they were.

    Keys and values are still those of every position; the query, the output projection and the
    feed-forward layers see one. Returns whether it was done: the family's block must be known,
    and the logits of a few random rows equal within rounding.
    """
    block = blocks(net)[-1]
    known, kernel = KNOWN.get(type(block).__name__), kernel_of(net)
    if known is None or kernel is None:
        return False
    return replaced(net, partial(known, block, kernel), specimens(net))


def replaced(net: Any, forward: Callable[..., Tensor], batch: dict[str, Tensor]) -> bool:
    """Let this be what the last block does, if the logits of the batch stay what they were."""
    block = blocks(net)[-1]
    if "forward" in vars(block):
        return False
    with evaluating(net), torch.no_grad():
        expected = net(**batch).logits
        vars(block)["forward"] = forward
        found = net(**batch).logits
    tolerance = 1e-5 if expected.dtype == torch.float32 else 4 * torch.finfo(expected.dtype).eps
    scale = max(1.0, float(expected.abs().max()))
    equal = float((found - expected).abs().max()) <= tolerance * scale
    if not equal:
        del vars(block)["forward"]
    return equal


def once_a_row(net: Any) -> list[nn.Module]:
    """The modules of a classifier that see one position of each row, where others see all.

    Poolers and heads do, but not `score`: transformers' decoders apply it to every position. Where
    the last block computes one position only, so does all of it but its keys and values.
    """
    try:
        block = blocks(net)[-1]
    except UserError:
        return []
    heads = [name for name in new_head_names(net) if name != "score"]
    found = [unwrapped(net).get_submodule(name) for name in heads]
    found += beside_blocks(net)[1] if heads else []
    if isinstance(vars(block).get("forward"), partial):
        inner = [(n, m) for n, m in block.named_modules() if not list(m.children())]
        found += [m for name, m in inner if not set(name.split(".")) & OF_ALL]
    return found


def kernel_of(net: Any) -> Any:
    """The attention function of the network, where it takes one query beside keys of all."""
    name = getattr(unwrapped(net).config, "_attn_implementation", None)
    if name not in KERNELS:
        return None
    # The family's own attention in plain torch.
    module = sys.modules[type(blocks(net)[-1]).__module__]
    eager: Any = getattr(module, "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)


def _attended(
    attention: Any,
    kernel: Callable[..., tuple[Tensor, Any]],
    projections: tuple[nn.Module, nn.Module, nn.Module],
    hidden: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> Tensor:
    """What the first position attends to: hidden [B, T, H] -> [B, 1, H], before its projection."""
    query, key, value = (
        project(states).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
        for project, states in zip(projections, (hidden[:, :1], hidden, hidden), strict=True)
    )
    mask = mask if mask is None else mask[..., :1, :]
    dropout = attention.dropout.p if attention.training else 0.0
    out, _ = kernel(
        attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling, **kwargs
    )
    return out.flatten(2)


def _of_bert(
    block: Any,
    kernel: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    *rest: Any,
    **kwargs: Any,
) -> Tensor:
    """BERT's block and those that are built like it."""
    inner = block.attention.self
    projections = (inner.query, inner.key, inner.value)
    seen = _attended(inner, kernel, projections, hidden_states, attention_mask)
    output: Tensor = block.attention.output(seen, hidden_states[:, :1])
    return block.feed_forward_chunk(output)


def _of_distilbert(
    block: Any,
    kernel: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    **rest: Any,
) -> Tensor:
    inner = block.attention
    projections = (inner.q_lin, inner.k_lin, inner.v_lin)
    seen = _attended(inner, kernel, projections, hidden_states, attention_mask)
    seen = block.sa_layer_norm(inner.out_lin(seen) + hidden_states[:, :1])
    return block.output_layer_norm(block.ffn(seen) + seen)


# By the class of the block: how it goes with one position.
KNOWN: dict[str, Callable[..., Tensor]] = {
    "BertLayer": _of_bert,
    "RobertaLayer": _of_bert,
    "XLMRobertaLayer": _of_bert,
    "CamembertLayer": _of_bert,
    "ElectraLayer": _of_bert,
    "TransformerBlock": _of_distilbert,
}


def specimens(net: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = net.get_input_embeddings().num_embeddings
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(vocabulary, mask.shape, generator=generator)
    batch = {"input_ids": ids, "attention_mask": mask.long()}
    return {name: value.to(net.device) for name, value in batch.items()}
