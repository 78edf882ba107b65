"""The optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from llmexp.config import NonNegativeFloat, NonNegativeInt, spec

if TYPE_CHECKING:
    import torch


# How much of the way to the final rate is left, by how much of the steps after warmup is done.
LEFT: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
}


@spec
class AdamW:
    """AdamW with decoupled decay (Loshchilov & Hutter 2019), on whole or 8-bit states."""

    learning_rate: NonNegativeFloat
    weight_decay: NonNegativeFloat
    """Applied to matrices only: biases and norms have nothing to decay."""
    beta1: Annotated[float, Field(ge=0, lt=1, strict=True)]
    beta2: Annotated[float, Field(ge=0, lt=1, strict=True)]
    warmup: NonNegativeInt | Annotated[float, Field(ge=0, le=1, strict=True)]
    """An int is steps, a float is a fraction of all steps."""
    schedule: Literal["linear", "cosine", "constant"]
    final_learning_rate: NonNegativeFloat = 0.0
    """Where linear and cosine schedules end."""
    states: Literal["full", "8bit", "paged_8bit"]
    """8-bit states need bitsandbytes; paged ones move to host memory under pressure on a GPU."""

    def unread(self) -> dict[str, str]:
        """Fields that nothing reads as the others are set, and why."""
        if self.schedule != "constant":
            return {}
        return {"final_learning_rate": f"optim.schedule={self.schedule} ends where it began"}

    def warmup_steps(self, total_steps: int) -> int:
        if isinstance(self.warmup, int):
            return self.warmup
        return round(self.warmup * total_steps)

    def build(self, net: torch.nn.Module, total_steps: int) -> dict[str, Any]:
        """Lightning's optimizer dictionary for the parameters that `requires_grad`."""
        from torch.optim.lr_scheduler import LambdaLR

        optimizer = self._optimizer(self.groups(net))
        # The numbers of transformers' get_scheduler, whose module imports peft and bitsandbytes.
        schedule = LambdaLR(optimizer, lambda step: self.share(step, total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def share(self, step: int, total_steps: int) -> float:
        """Of the learning rate, what a step takes."""
        warmup = self.warmup_steps(total_steps)
        if step < warmup:
            return step / warmup
        # Where all updates are warmup, what comes after them would be divided by zero.
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        end = self.final_learning_rate / self.learning_rate if self.learning_rate else 0.0
        return end + (1.0 - end) * LEFT[self.schedule](done)

    def groups(self, net: torch.nn.Module) -> list[dict[str, Any]]:
        """Matrices decay; vectors (biases, norms) do not."""
        trained = [p for p in net.parameters() if p.requires_grad]
        if not self.weight_decay:  # nothing to tell apart, and each group is a kernel of its own
            return [{"params": trained, "weight_decay": 0.0}]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def _optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        settings: dict[str, Any] = {"lr": self.learning_rate, "betas": (self.beta1, self.beta2)}
        if self.states == "full":
            # The default on CPU is a slow loop over tensors (torch 2.13).
            return torch.optim.AdamW(groups, fused=True, **settings)
        import bitsandbytes as bnb

        cls = bnb.optim.AdamW8bit if self.states == "8bit" else bnb.optim.PagedAdamW8bit
        return cls(groups, **settings)
