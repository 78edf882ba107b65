"""Training on a batch in parts, once the whole did not fit: the update stays what it was."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from torch import Tensor

from llmexp.errors import OutOfMemory
from llmexp.modules.memory import Attempt, Parts, size
from llmexp.modules.update import Window
from llmexp.tasks.base import Batch

if TYPE_CHECKING:
    from llmexp.modules.finetune import FineTune

log = logging.getLogger("llmexp")


class Portions:
    """Halves what is computed at once and doubles how often, where memory runs out.

    Losses are summed and divided by the count of the whole update, so the parts' gradient is the
    batch's. A failure in a backward pass leaves gradients half done: the update begins anew.
    """

    def __init__(self, module: FineTune):
        self.module = module
        self.parts = Parts()
        self.rest: list[Batch] = []

    def first(self, batch: Batch) -> Tensor:
        """The loss of the first part; `backward` goes through the other ones too."""
        while True:
            part, *self.rest = self.parts.of(batch)
            with Attempt() as tried:
                return self.module.counted(part)
            assert tried.failed
            self._shrink()

    def backward(self, loss: Tensor) -> None:
        """Gradients of the whole batch."""
        with Attempt() as tried:
            loss.backward()
            for part in self.rest:
                self._pass(part)
        while tried.failed:
            # What is kept for its backward pass is what the next try needs room for.
            loss.detach_()
            self._shrink()
            with Attempt() as tried:
                self._again()

    def _pass(self, part: Batch) -> None:
        """Forward and backward as Lightning does them."""
        plugin = self.module.trainer.precision_plugin
        with plugin.train_step_context():
            total = self.module.counted(part)
        plugin.pre_backward(total, self.module).backward()

    def _again(self) -> None:
        """The update from its first batch on."""
        self.module.zero_grad(set_to_none=True)
        self.module.window = Window()
        for batch in self.module.batches:
            for part in self.parts.of(batch):
                self._pass(part)

    def _shrink(self) -> None:
        module = self.module
        if module.trainer.world_size > 1:
            raise OutOfMemory(
                "one process alone cannot make its batches smaller, the others would wait for it",
                single=False,
            )
        batch = max(module.batches, key=size)
        rows = self.parts.double(batch)
        said = (
            f"out of memory in step {module.global_step}: from here on {rows} rows at a time and "
            f"{self.parts.count} times as often, the same update; next time data.batch_size="
            f"{-(-module.task.batch_size // self.parts.count)} trainer.accumulate_grad_batches="
            f"{module.trainer.accumulate_grad_batches * self.parts.count}"
        )
        log.warning(said)
        module.context.examples.notes.append(said)
