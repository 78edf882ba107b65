"""Whether a network keeps packed documents apart: proven on it, before it is trained on packs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmexp.data.packing import packed
from llmexp.errors import UserError
from llmexp.nets.architecture import unwrapped
from llmexp.nets.prefix import evaluating
from llmexp.tasks.base import Row

if TYPE_CHECKING:
    from llmexp.tasks.decoder import DecoderTask

# Tokens of the documents: odd and even, one alone, and no two alike.
LENGTHS = (12, 1, 17, 6)
# How far logits may move, in parts of the largest, when another document stands beside theirs.
LEAK = 1e-5


def prove_packing(net: Any, task: DecoderTask) -> None:
    """Refuse packing unless logits are those of each document alone, whatever stands beside it."""
    forward = inspect.signature(unwrapped(net).forward).parameters
    if "position_ids" not in forward and not any(p.kind is p.VAR_KEYWORD for p in forward.values()):
        raise _refusal(net, "takes no positions, by which packed documents are told apart")
    documents = _documents(net.get_input_embeddings().num_embeddings, seed=0)
    strangers = _documents(net.get_input_embeddings().num_embeddings, seed=1)
    with evaluating(net), torch.no_grad():
        # Two rows, so that padding stands in one of them.
        alone = torch.cat([_logits(net, task, [d]) for d in documents])
        together = _logits(net, task, [_pack(documents[:3]), _pack(documents[3:])])
        other = [strangers[0], *documents[1:3]]
        # Cut as above: nothing but a leak, not even rounding, can move what stands behind it.
        beside = _logits(net, task, [_pack(other), _pack(documents[3:])])
    scale = max(1.0, float(_centred(alone).abs().max()))
    leak = _apart(beside[LENGTHS[0] :], together[LENGTHS[0] :])
    if not leak <= LEAK * scale:
        raise _refusal(net, f"lets packed documents see each other (logits move by {leak:.2g})")
    apart, eps = _apart(together, alone), _eps(net)
    # The offset that softmax ignores is part of what a logit is rounded at.
    if not apart <= max(1e-5, 4 * eps) * scale + eps * float(alone.abs().max()):
        raise _refusal(net, f"reads packed documents otherwise (logits differ by {apart:.2g})")


def _centred(logits: Tensor) -> Tensor:
    """Without what all logits of a position [count, V] have in common, which softmax ignores."""
    return logits.float() - logits.float().mean(dim=-1, keepdim=True)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return float((_centred(ours) - _centred(theirs)).abs().max())


def _refusal(net: Any, why: str) -> UserError:
    kind = type(unwrapped(net)).__name__
    return UserError(
        f"data.packing: {kind} {why}; use data.packing=false, and data.tokens_per_batch to waste "
        "little on padding"
    )


def _documents(vocabulary: int, seed: int) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in LENGTHS]
    # Every position is supervised, so that every logit is compared.
    return [{"input_ids": i, "labels": i, "text_bytes": 0, "index": 0} for i in ids]


def _pack(documents: list[Row]) -> Row:
    """One pack in the order given, which the packs of a run choose themselves."""
    parts = [packed([d], len(d["input_ids"]))[0] for d in documents]
    whole = {k: [v for part in parts for v in part[k]] for k in ("input_ids", "position_ids")}
    return {**parts[0], **whole, "labels": whole["input_ids"]}


def _logits(net: Any, task: DecoderTask, rows: list[Row]) -> Tensor:
    """At every real position [count, V], row by row, as in training."""
    device = next(net.parameters()).device
    batch = task.collate(rows, pad_id=0)
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    return task.logits(net, moved)


def _eps(net: Any) -> float:
    """Of the coarsest precision that is computed in."""
    device = next(net.parameters()).device.type
    types = [net.dtype]
    if torch.is_autocast_enabled(device):
        types.append(torch.get_autocast_dtype(device))
    return max(torch.finfo(t).eps if t.is_floating_point else 0.0 for t in types)
