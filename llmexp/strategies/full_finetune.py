from __future__ import annotations

from typing import TYPE_CHECKING

from llmexp.config import spec
from llmexp.strategies.base import Strategy

if TYPE_CHECKING:
    from torch import nn

    from llmexp.context import Context


@spec
class FullFinetune(Strategy):
    """Every parameter is trained from its pretrained value."""

    def meant(self, net: nn.Module, context: Context) -> set[str] | None:
        return {name for name, _ in net.named_parameters()}
