"""The top of the network trains: some blocks, the final norm, the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmexp.config import PositiveInt, spec
from llmexp.errors import UserError
from llmexp.strategies.base import Strategy

if TYPE_CHECKING:
    from torch import nn

    from llmexp.context import Context


@spec
class PartialFinetune(Strategy):
    """Trains the top blocks and what lies above them (Howard & Ruder 2018; Lee et al. 2019)."""

    top_blocks: PositiveInt
    """How many transformer blocks train, counted from the top."""

    def check_targets(self, context: Context) -> None:
        from llmexp.nets.architecture import block_count, empty_network

        there = block_count(empty_network(context))
        if self.top_blocks > there:
            raise UserError(
                f"strategy.top_blocks: {self.top_blocks} is more than the {there} blocks of "
                f"{context.model.path}; strategy=full_finetune trains them all and the embeddings"
            )

    def adapt(self, net: nn.Module, context: Context) -> nn.Module:
        from llmexp.nets.freezing import train_only

        train_only(net, self._top(net))
        return net

    def meant(self, net: nn.Module, context: Context) -> set[str] | None:
        from llmexp.nets.freezing import names_in

        return names_in(net, self._top(net))

    def _top(self, net: nn.Module) -> list[nn.Module]:
        from llmexp.nets.architecture import blocks
        from llmexp.nets.freezing import beside_blocks, head_modules

        top = list(blocks(net))[-self.top_blocks :]
        return [*top, *beside_blocks(net)[1], *head_modules(net)]
