from __future__ import annotations

import torch
from torch import Tensor

from llmexp.errors import Diverged


class Guard:
    """Keeps a loss or gradient that is not finite away from the weights.

    On a CPU looking costs nothing. On a GPU it would stall every step, so a fused optimizer is told
    to skip the step on the device, and the host learns of it one step later.
    """

    def __init__(self) -> None:
        self.pending: tuple[int, float, Tensor, torch.cuda.Event | None] | None = None

    def check(
        self, optimizer: torch.optim.Optimizer, step: int, loss: Tensor, norm: Tensor, defer: bool
    ) -> None:
        """Raise Diverged, now or at the next call; the step it names changes no weight."""
        self.settle()
        values = torch.stack([loss.float(), norm.float()])
        rate = float(optimizer.param_groups[0]["lr"])
        if not defer:
            return self._judge(step, rate, values)
        optimizer.found_inf = (~values.isfinite().all()).float()  # type: ignore[attr-defined]
        self.pending = (step, rate, *_on_its_way(values))
        return None

    def settle(self) -> None:
        """Judge what was put off; call it before anything is saved."""
        if self.pending is None:
            return
        step, rate, values, arrived = self.pending
        self.pending = None
        if arrived is not None:
            arrived.synchronize()
        self._judge(step, rate, values)

    @staticmethod
    def _judge(step: int, rate: float, values: Tensor) -> None:
        if values.isfinite().all():
            return
        loss, norm = values.tolist()
        raise Diverged(
            f"step {step}: the loss is {loss:g} and the gradient norm {norm:g} at learning rate "
            f"{rate:.3g}; the weights are those of the step before; try a smaller "
            "optim.learning_rate, a longer optim.warmup, or trainer.gradient_clip_val=1.0"
        )


def _on_its_way(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A host copy that need not be waited for yet, and the event of its arrival."""
    if not values.is_cuda:
        return values, None
    host = torch.empty(values.shape, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
