"""Cross entropy of an output head without its logits: in chunks, gradients taken in the forward.

The memory is a chunk of logits, whatever the vocabulary times the sequence is; the sums are those
of `cross_entropy(head(hidden), labels)`. (The idea: Hsu et al. 2024, arXiv 2410.10989; Wijmans et
al. 2024, arXiv 2411.09009. Here in plain torch.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from llmexp.tasks.cross_entropy import cross_entropy, each, wide

# Logits that exist at once: 64 MB in float32. Fewer than these are not worth a second way.
CHUNK = 2**24
# Whether what a network returns is what its output head gave, found out once for each.
_plain: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def worthwhile(head: nn.Module, positions: int) -> bool:
    """Whether the logits of so many positions are worth avoiding, and can be."""
    if inseparable(head) is not None:
        return False
    vocabulary: int = head.weight.shape[0]  # type: ignore[assignment,index]
    return positions * vocabulary > CHUNK


def inseparable(head: nn.Module) -> str | None:
    """Why a head cannot be taken apart, or None: it must be plain, on whole weights."""
    if type(head) is not nn.Linear:
        return f"the output head is no plain layer ({type(head).__name__})"
    if type(head.weight) not in (Tensor, nn.Parameter):
        return "the output head's weights are spread over devices"
    return None


def returned_as_given(head: nn.Module, run: Callable[[], tuple[Tensor, Tensor]]) -> bool:
    """Whether the network returns what its head gave; `run` gives both for a few positions.

    Some families scale or cap their logits after the head (Gemma 2, Granite, Cohere).
    """
    if head not in _plain:
        devices = [head.weight.device] if head.weight.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            given, returned = run()
        _plain[head] = bool(torch.equal(given, returned.reshape(given.shape)))
    return _plain[head]


def chunked_cross_entropy(head: Any, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross entropy [] of hidden [N, H] through the head, and how many were right [].

    The second is counted only where no gradient is wanted (evaluation); 0 elsewhere.
    """
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    # Inside, a gradient seems wanted even under no_grad.
    trains = torch.is_grad_enabled()
    inputs = (hidden, head.weight, head.bias, labels, dtype, trains)
    loss: tuple[Tensor, Tensor] = _Chunked.apply(*inputs)
    return loss


def chunked_each(head: Any, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same in evaluation, not summed: the loss at every position [N], and whether it is right.

    The logits are made a second time: only the test asks for it.
    """
    size = max(1, CHUNK // head.weight.shape[0])
    parts = zip(hidden.split(size), labels.split(size), strict=True)
    found = [each(head(seen.to(head.weight.dtype)).float(), truth) for seen, truth in parts]
    return torch.cat([losses for losses, _ in found]), torch.cat([right for _, right in found])


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        dtype: torch.dtype,
        trains: bool,
    ) -> tuple[Tensor, Tensor]:
        wanted = [trains and need for need in ctx.needs_input_grad[:3]]
        kept = [
            torch.zeros_like(value, dtype=torch.float32) if value is not None and want else None
            for value, want in zip((hidden, weight, bias), wanted, strict=True)
        ]
        total = hidden.new_zeros((), dtype=wide(hidden.device))
        right = torch.zeros_like(total, dtype=torch.long)
        cast, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        size = max(1, CHUNK // weight.shape[0])
        for start in range(0, len(labels), size):
            at = slice(start, start + size)
            with torch.autocast(hidden.device.type, enabled=False):
                seen, truth = hidden[at].to(dtype), labels[at]
                logits = F.linear(seen, cast, offset).float()  # [C, V]
                total += cross_entropy(logits, truth)
                if any(wanted):
                    _add_gradients(kept, at, seen, cast, logits, truth)
                else:
                    right += (logits.argmax(-1) == truth).sum()
        ctx.save_for_backward(*(k for k in kept if k is not None))
        ctx.there = [k is not None for k in kept]
        ctx.dtypes = [None if v is None else v.dtype for v in (hidden, weight, bias)]
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        found = [
            (next(saved) * outer[0]).to(dtype) if there else None
            for there, dtype in zip(ctx.there, ctx.dtypes, strict=True)
        ]
        return (*found, None, None, None)


def _add_gradients(
    kept: list[Tensor | None], at: slice, seen: Tensor, cast: Tensor, logits: Tensor, truth: Tensor
) -> None:
    """What a chunk adds; its logits become their own gradient in place."""
    slope = torch.softmax(logits, -1, out=logits)
    slope[torch.arange(len(truth), device=truth.device), truth] -= 1
    of_hidden, of_weight, of_bias = kept
    typed = slope.to(seen.dtype)
    if of_hidden is not None:
        of_hidden[at] = (typed @ cast).float()
    if of_weight is not None:
        of_weight += (typed.T @ seen).float()
    if of_bias is not None:
        of_bias += slope.sum(0)
