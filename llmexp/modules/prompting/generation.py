"""Decoders, instruction and plain text: the pretrained model's loss, and what it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from llmexp.exemplars import Exemplars
from llmexp.modules.prompting.base import Asked
from llmexp.tasks.base import Batch, Loss

if TYPE_CHECKING:
    from llmexp.context import Context


class Generation(Asked):
    """The loss of the reference text, and answers that the network writes itself."""

    predictor = "generation"

    def __init__(self, net: nn.Module, context: Context, exemplars: Exemplars):
        super().__init__(net, context, exemplars)

    def loss(self, batch: Batch) -> Loss:
        return self.task.loss(self.net, batch)

    def facts(self) -> dict[str, Any]:
        return {}
