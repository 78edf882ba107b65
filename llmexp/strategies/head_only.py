"""The task head trains, the pretrained body does not (linear probing, with the pooler)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmexp.config import spec
from llmexp.strategies.base import Strategy

if TYPE_CHECKING:
    from torch import nn

    from llmexp.context import Context


@spec
class HeadOnly(Strategy):
    """Trains the head, with the pooler or pre-classifier layer where the family has one.

    On a language model the output head trains, untied from the embeddings first.
    """

    def adapt(self, net: nn.Module, context: Context) -> nn.Module:
        from llmexp.nets.freezing import head_modules, train_only

        train_only(net, head_modules(net))
        return net

    def meant(self, net: nn.Module, context: Context) -> set[str] | None:
        from llmexp.nets.freezing import head_modules, names_in

        return names_in(net, head_modules(net))
