"""The optimizer and its schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from llmexp.config import NonNegativeFloat, NonNegativeInt, spec

if TYPE_CHECKING:
    import torch


# Our schedule -> transformers' name for it, and the argument that says where it ends.
SCHEDULES = {
    "linear": ("polynomial", ("lr_end",)),
    "cosine": ("cosine_with_min_lr", ("min_lr",)),
    "constant": ("constant_with_warmup", ()),
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
        if SCHEDULES[self.schedule][1]:
            return {}
        return {"final_learning_rate": f"optim.schedule={self.schedule} ends where it began"}

    def warmup_steps(self, total_steps: int) -> int:
        if isinstance(self.warmup, int):
            return self.warmup
        return round(self.warmup * total_steps)

    def build(self, net: torch.nn.Module, total_steps: int) -> dict[str, Any]:
        """Lightning's optimizer dictionary for the parameters that `requires_grad`."""
        from transformers import get_scheduler

        optimizer = self._optimizer(self.groups(net))
        name, settings = SCHEDULES[self.schedule]
        warmup = self.warmup_steps(total_steps)
        schedule = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=warmup,
            # Where all updates are warmup, what comes after them would be divided by zero.
            num_training_steps=max(total_steps, warmup + 1),
            scheduler_specific_kwargs=dict.fromkeys(settings, self.final_learning_rate),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def groups(self, net: torch.nn.Module) -> list[dict[str, Any]]:
        """Matrices decay; vectors (biases, norms) do not."""
        trained = [p for p in net.parameters() if p.requires_grad]
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
