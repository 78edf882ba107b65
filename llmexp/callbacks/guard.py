from __future__ import annotations

import logging
import math
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from llmexp.errors import Diverged
from llmexp.modules import update
from llmexp.modules.gathered import from_all
from llmexp.modules.memory import cut, size
from llmexp.tasks.base import Batch

log = logging.getLogger("llmexp")
SHOWN = 16
# The running mean and deviation of the loss: their memory in updates, and how many come first.
MEMORY, FIRST = 50, 20


class Update(NamedTuple):
    """What is judged of an update before its step."""

    step: int
    rate: float
    values: Tensor
    """Loss and gradient norm, on the host."""
    arrived: torch.cuda.Event | None
    batches: list[Batch]


class Guard(pl.Callback):
    """Keeps a loss or gradient that is not finite from the weights; tells of a loss that jumps.

    `policy: raise` ends the run, `skip` leaves the update out, `max_skipped` times at most. `spike`
    is how many deviations above its running mean the loss of an update may be, unsaid.

    On a CPU looking costs nothing. On a GPU it would stall every step, so a fused optimizer is told
    to skip the step on the device, and the host learns of it one step later. The loss and the norm
    are those of all processes, so all of them judge alike.
    """

    def __init__(
        self,
        policy: Literal["raise", "skip"] = "raise",
        max_skipped: int = 10,
        spike: float | None = None,
    ):
        self.policy, self.max_skipped, self.spike = policy, max_skipped, spike
        self.skipped = 0
        self.seen, self.mean, self.variance = 0, 0.0, 0.0
        self.pending: Update | None = None

    @staticmethod
    def unread(node: dict[str, Any]) -> dict[str, str]:
        """Arguments that change nothing beside the others of a node, and why."""
        if node.get("policy", "raise") == "skip":
            return {}
        return {"max_skipped": "callbacks.guard.policy=raise ends the run at the first"}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("skipped", "seen", "mean", "variance")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def check(
        self,
        module: Any,
        optimizer: torch.optim.Optimizer,
        loss: Tensor,
        norm: Tensor,
        batches: list[Batch],
        *,
        defer: bool,
        drop: bool,
    ) -> None:
        """Judge an update, now or at the next call; one that is not finite changes no weight.

        `drop` its gradients, unless a scaler skips the step by itself.
        """
        self.settle(module)
        values = torch.stack([loss.float(), norm.float()])
        rate = float(optimizer.param_groups[0]["lr"])
        if defer:
            optimizer.found_inf = (~values.isfinite().all()).float()  # type: ignore[attr-defined]
            self.pending = Update(module.global_step, rate, *_on_its_way(values), batches)
            return
        judged = Update(module.global_step, rate, values, None, batches)
        if not self._judge(judged, module) and drop:
            for parameter in update.stepped(optimizer):
                parameter.grad = None

    def settle(self, module: Any) -> None:
        """Judge what was put off; call it before anything is saved."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        if pending.arrived is not None:
            pending.arrived.synchronize()
        self._judge(pending, module)

    def saved(self, state: dict[str, Any], step: int) -> None:
        """A step may still overflow: weights that are not finite replace no checkpoint."""
        floats = [v.isfinite().all() for v in state.values() if v.is_floating_point()]
        if floats and not torch.stack(floats).all():
            raise Diverged(
                f"step {step}: the weights are not finite after it, and are not saved; try a "
                "smaller optim.learning_rate or a longer optim.warmup"
            )

    def validated(self, loss: Any, step: int) -> None:
        """A validation loss that is not finite is no reason to go on, or to keep the weights."""
        if self.policy == "raise" and not torch.as_tensor(loss).isfinite():
            raise Diverged(
                f"step {step}: the validation loss is {float(loss):g}, though every update was "
                "finite; the last checkpoint is the one before; try a smaller optim.learning_rate, "
                "or callbacks.guard.policy=skip to go on all the same"
            )

    def _judge(self, judged: Update, module: Any) -> bool:
        """Whether the update is made; raises where the run must end."""
        loss, norm = judged.values.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            said = (
                f"step {judged.step}: the loss is {loss:g} and the gradient norm {norm:g} at "
                f"learning rate {judged.rate:.3g} on {self._rows(judged.batches, module, loss)}"
            )
            self._refuse(said, module)
            return False
        if self.spike is not None and self._jumped(loss):
            _tell(
                f"step {judged.step}: the loss jumped to {loss:.4g} from about {self.mean:.4g} at "
                f"learning rate {judged.rate:.3g} on {_named(judged.batches)}",
                module,
            )
        return True

    def _refuse(self, said: str, module: Any) -> None:
        self.skipped += 1
        if self.policy == "raise":
            raise Diverged(
                f"{said}; the weights are those of the step before; try a smaller "
                "optim.learning_rate, a longer optim.warmup, trainer.gradient_clip_val=1.0, or "
                "callbacks.guard.policy=skip to leave such updates out"
            )
        if self.skipped > self.max_skipped:
            raise Diverged(
                f"{said}; {self.skipped} updates were left out, more than "
                f"callbacks.guard.max_skipped={self.max_skipped}"
            )
        _tell(f"{said}; the update is left out ({self.skipped} so far)", module)

    def _jumped(self, loss: float) -> bool:
        """Whether the loss is far above what it was; one that is counts as the most it may be."""
        assert self.spike is not None
        limit = self.mean + self.spike * max(self.variance**0.5, 0.01 * abs(self.mean))
        jumped = self.seen >= FIRST and loss > limit
        self.seen += 1
        share = 1 / min(self.seen, MEMORY)
        away = min(loss, limit) - self.mean if jumped else loss - self.mean
        self.mean += share * away
        self.variance = (1 - share) * (self.variance + share * away**2)
        return jumped

    def _rows(self, batches: list[Batch], module: Any, loss: float) -> str:
        """The train rows whose own loss is not finite; all of the update where each one's is."""
        if (loss == loss and abs(loss) != float("inf")) or hasattr(module.net, "unshard"):
            return _named(batches)
        alone = [row for batch in batches for row in cut(batch, size(batch))]
        with torch.no_grad():
            bad = [row for row in alone if not module.loss(row).total.isfinite()]
        return _named(bad, otherwise=batches)


def _named(batches: list[Batch], otherwise: list[Batch] | None = None) -> str:
    """Row numbers over all processes, in words."""
    found = _gathered(batches) or _gathered(otherwise or [])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"train rows {', '.join(map(str, found[:SHOWN]))}{more}"


def _gathered(batches: list[Batch]) -> list[int]:
    mine = [i for batch in batches for i in batch["index"].tolist() if i >= 0]
    return sorted(row for part in from_all(mine) for row in part)


def _tell(said: str, module: Any) -> None:
    log.warning(said)
    module.context.examples.notes.append(said)


def _on_its_way(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A host copy that need not be waited for yet, and the event of its arrival."""
    if not values.is_cuda:
        return values, None
    host = torch.empty(values.shape, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
