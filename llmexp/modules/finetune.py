"""The one training loop: token-exact loss, trainable-only checkpoints, answers from the test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from llmexp.callbacks.guard import Guard
from llmexp.checkpoints.generations import Generations
from llmexp.modules import update
from llmexp.modules.beginning import Beginning, same_world
from llmexp.modules.evaluation import Evaluation
from llmexp.modules.gathered import from_all
from llmexp.modules.kernels import Kernels
from llmexp.modules.portions import Portions
from llmexp.nets.dequantization import Dequantised
from llmexp.nets.freezing import frozen_blocks, rest
from llmexp.nets.prefix import standing_in
from llmexp.tasks.base import Batch, Loss

if TYPE_CHECKING:
    from llmexp.context import Context

log = logging.getLogger("llmexp")


class FineTune(Evaluation):
    """Trains whatever of `net` requires a gradient.

    The loss of an update is the mean over the supervised positions of the whole update: over its
    micro-batches, a short last accumulation window, and all ranks (Lightning #20350, #19987).
    Gradients are summed first and divided once, when the last of them is in: callbacks that look
    at them before the optimizer's step see the gradient of the mean.
    """

    def __init__(self, net: nn.Module, context: Context):
        super().__init__(context)
        self.net = net
        # An adapter's checkpoint holds no base weights, so loading it cannot be strict.
        self.strict_loading = False
        self.trained = {n for n, p in net.named_parameters() if p.requires_grad}
        self.autocast_dtype = half_precision(net)
        self.window = update.Window()
        self.tokens_trained = 0
        self.guard = Guard()
        """Another one where the Trainer has it among its callbacks."""
        self.batches: list[Batch] = []
        """The batches of the update that is being made."""
        self.update_loss = self.update_norm = torch.tensor(float("nan"))
        """Of the newest update, over all processes."""
        self.portions = Portions(self)
        self.frozen = frozen_blocks(net)
        self.kernels = Kernels(net, self.frozen, context)
        # A step of Adam is lost in the rounding of bfloat16: what is trained is float32.
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.beginning = Beginning(net, self.trained, context)
        # transformers loads in eval mode and Lightning keeps what it finds: dropout would be off.
        self.train()

    def train(self, mode: bool = True) -> FineTune:
        """As `nn.Module.train`, but what is frozen stays in eval mode."""
        super().train(mode)
        rest(self.net)
        return self

    def on_fit_start(self) -> None:
        """The task looks at the network where and as it will be trained; then it is compiled."""
        found = [c for c in self.trainer.callbacks if isinstance(c, Guard)]  # type: ignore[attr-defined]
        self.guard = found[0] if found else self.guard
        half = str(self.trainer.precision).startswith(("16", "bf16"))
        for remark in self.kernels.settle(self.device, half or self.autocast_dtype is not None):
            log.info(remark)
            self.context.examples.notes.append(remark)
        with self.trainer.precision_plugin.forward_context(), self._precision():
            self.task.prove(self.net)
            for remark in self.task.shortcomings(self.net, self.context.max_length):
                log.warning(remark)
                self.context.examples.notes.append(remark)
        self.kernels.compile()

    def loss(self, batch: Batch) -> Loss:
        with standing_in(self.frozen, batch.get("hidden")), self._precision():
            return self.task.loss(self.net, batch)

    def _precision(self) -> AbstractContextManager[Any]:
        """Float32 parts and a half-precision base meet in autocast, asked for or not."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """As a step is computed, whose precision Lightning opens around steps alone."""
        precision = self.trainer.precision_plugin.forward_context()
        with self.kernels.as_loaded(), precision, self._precision():
            yield

    def on_test_end(self) -> None:
        self.kernels.put_away()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self.batches.append(batch)
        loss, accumulated = self.portions.first(batch), self.trainer.accumulate_grad_batches
        at_once = accumulated == self.trainer.world_size == self.portions.parts.count == 1
        # Of small gradients in float16 little would be left but for the size of the sum.
        if at_once and self.autocast_dtype is not torch.float16:
            return self.window.mean(loss)
        # Lightning divides by the configured accumulation; the true divisor comes later.
        return loss * accumulated

    def counted(self, batch: Batch) -> Tensor:
        """The summed loss of a batch, or of a part of one, as it enters the update."""
        loss = self.loss(batch)
        self.window.add(loss)
        return loss.total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.portions.backward(loss)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        self.tokens_trained += batch["tokens"]

    def on_after_backward(self) -> None:
        """Turn summed gradients into the gradient of the update's mean."""
        if self.trainer.fit_loop._should_accumulate():
            return
        (optimizer,) = self.trainer.optimizers
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            # Lightning leaves it to the step of a fused optimizer, after norms and clipping.
            scaler.unscale_(optimizer)
        divided = self.window.divided
        tokens, self.update_loss = self.window.close()
        if divided:
            return
        # Ranks' gradients were averaged, so their sum is the average times the ranks.
        update.scale(update.stepped(optimizer), self.trainer.world_size / tokens)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Stop at an update that is not finite; clip, by the norm over all shards and ranks."""
        self.update_norm = norm = update.global_norm(update.stepped(optimizer))
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        # A float16 loss scaler meets infinite gradients by design, and skips them itself.
        judged = self.update_loss if scaled else norm
        fused = norm.is_cuda and bool(optimizer.defaults.get("fused")) and not scaled
        batches, self.batches = self.batches, []
        how = {"defer": fused, "drop": not scaled}
        self.guard.check(self, optimizer, self.update_loss, judged, batches, **how)
        if gradient_clip_val is not None and gradient_clip_val > 0:
            algorithm = gradient_clip_algorithm or "norm"
            update.clip(update.stepped(optimizer), norm, gradient_clip_val, algorithm)

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        return self.context.optim.build(self.net, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained weights only: a frozen base can be loaded again, a 4-bit one must be."""
        self.guard.settle(self)
        checkpoint["beginning"] = self.beginning.state()
        checkpoint["validation_metrics"] = self.validation_metrics
        checkpoint["parts"] = self.portions.parts.count
        checkpoint["validated_at"] = self.validated_at
        checkpoint["kernels"] = self.kernels.state()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            name: value
            for name, value in state.items()
            if name.removeprefix("net.") in self.trained
        }
        self.guard.saved(checkpoint["state_dict"], self.global_step)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.guard.validated(self.validation_metrics["val/loss"], self.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Before any weight is loaded."""
        same_world(len(checkpoint["resume"]["processes"]), self.trainer.world_size)
        self.beginning.check(checkpoint["beginning"])
        self.validation_metrics = checkpoint["validation_metrics"]
        self.validated_at = checkpoint["validated_at"]
        self.kernels.before = checkpoint.get("kernels")
        self.portions.parts.count = checkpoint["parts"]

    def restore_best(self, trainer: pl.Trainer) -> None:
        """Put the best checkpoint's weights back, unless they are the ones that are here."""
        keeper = trainer.checkpoint_callback
        best = getattr(keeper, "best_model_path", "")
        newest = getattr(keeper, "best_at", None) == self.validated_at == trainer.global_step
        if not best or newest:
            return
        if not all(from_all(Generations(Path(best).parent).is_whole(Path(best)))):
            said = "checkpoints/best.ckpt is not whole: the last weights are tested and exported"
            log.warning(said)
            self.context.examples.notes.append(said)
            return
        checkpoint = torch.load(best, map_location="cpu", weights_only=True)
        self.validation_metrics = checkpoint["validation_metrics"]
        if checkpoint["global_step"] != trainer.global_step:
            trainer.strategy.load_model_state_dict(checkpoint, strict=False)


def half_precision(net: nn.Module) -> torch.dtype | None:
    """The 16-bit type of the frozen weights, if that is what they are in.

    Not of layers that see to their types themselves, as those in 4 bits do.
    """
    own = {id(p) for m in net.modules() if isinstance(m, Dequantised) for p in m.parameters()}
    frozen = {p.dtype for p in net.parameters() if not p.requires_grad and id(p) not in own}
    return next((t for t in (torch.bfloat16, torch.float16) if t in frozen), None)
