"""What happens between backward and the optimizer's step, on whole or sharded gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from llmexp.tasks.base import Loss
from llmexp.tasks.cross_entropy import wide


class Window:
    """The supervised positions of an update and their summed loss, over its micro-batches.

    No buffers of a module: those a half-precision trainer would round, and DDP would send around.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.divided = False
        """Whether the backward pass was from the mean already, so that no gradient is left to."""

    def mean(self, total: Tensor) -> Tensor:
        """Where all of an update was added before its backward pass: what to go back from."""
        assert self.sums is not None
        self.divided = True
        return total / self.sums[0].clamp(min=1)

    def add(self, loss: Loss) -> None:
        kind = wide(loss.total.device)
        both = torch.stack([loss.count.to(kind), loss.total.detach().to(kind)])
        self.sums = both if self.sums is None else self.sums + both

    def close(self) -> tuple[Tensor, Tensor]:
        """How many positions all ranks had, at least 1, and their mean loss; then begin again."""
        assert self.sums is not None
        tokens, loss = over_ranks(self.sums).unbind()
        self.sums, self.divided = None, False
        tokens = tokens.clamp(min=1)
        return tokens, loss / tokens


def over_ranks(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def stepped(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What the optimizer steps; walking the network for it took longer than a step of a head."""
    return [p for group in optimizer.param_groups for p in group["params"]]


@torch.no_grad()
def scale(parameters: Iterable[Tensor], factor: Tensor) -> None:
    """Multiply every gradient by a scalar on the device; on a CPU a number is faster."""
    gradients = [_local(p.grad) for p in parameters if p.grad is not None]
    if not gradients:  # an update that is left out has none
        return
    if factor.is_cpu:
        torch._foreach_mul_(gradients, float(factor))
        return
    for kind in {gradient.dtype for gradient in gradients}:
        those = [gradient for gradient in gradients if gradient.dtype == kind]
        torch._foreach_mul_(those, factor.to(kind))


@torch.no_grad()
def global_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, of all shards on all processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    shards = [g for g in gradients if isinstance(g, DTensor)]
    if not shards:
        return get_total_norm(gradients)
    plain = get_total_norm([g for g in gradients if not isinstance(g, DTensor)])
    squares = get_total_norm([_local(g) for g in shards]).double().square()
    dist.all_reduce(squares, group=shards[0].device_mesh.get_group())
    return (squares + plain.to(squares).square()).sqrt().float()


@torch.no_grad()
def clip(parameters: list[Tensor], norm: Tensor, limit: float, algorithm: str) -> None:
    """Lightning's two ways: shrink to a global norm, or clamp each value."""
    if algorithm == "norm":
        # Where looking costs nothing, a pass over all gradients that would change none is spared.
        if norm.is_cpu and norm + 1e-6 <= limit:
            return None
        return scale(parameters, (limit / (norm + 1e-6)).clamp(max=1.0))
    for parameter in parameters:
        if parameter.grad is not None:
            _local(parameter.grad).clamp_(-limit, limit)
