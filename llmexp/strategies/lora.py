"""Low-rank adapters on a frozen network (Hu et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from llmexp.config import Fraction, PositiveInt, RunConfig, spec
from llmexp.errors import UserError, did_you_mean
from llmexp.strategies.base import Strategy

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

    from llmexp.context import Context
    from llmexp.models import HFModel
    from llmexp.tasks.base import Task


@spec
class LoRA(Strategy):
    """A frozen base with a trained update B A of rank `rank`, scaled by alpha / rank."""

    rank: PositiveInt
    alpha: Annotated[float, Field(gt=0, strict=True)]
    dropout: Fraction
    target_modules: Literal["all-linear"] | list[str]
    """`all-linear` is every linear layer of the backbone; else module names (their last part)."""
    rslora: bool
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023)."""
    dora: bool
    """Magnitude and direction apart (Liu et al. 2024)."""
    layers: PositiveInt | None
    """Adapters on the top blocks only, this many; null puts them on all."""
    merge: bool
    """Also export the adapters merged into the unquantised base."""

    def check(self, model: HFModel, task: Task, config: RunConfig) -> list[str]:
        found = Strategy.check(self, model, task, config)
        if self.target_modules == []:
            found.append("strategy.target_modules: names no module; try all-linear")
        return found

    def check_targets(self, context: Context) -> None:
        """Every name must match a linear layer: peft reports only when none does."""
        from llmexp.architecture import empty_network, linear_names

        if self.target_modules == "all-linear":
            return
        known = linear_names(empty_network(context))
        missing = [n for n in self.target_modules if n not in known]
        if missing:
            raise UserError(
                f"strategy.target_modules: {', '.join(missing)} "
                f"{'matches' if len(missing) == 1 else 'match'} no linear layer of "
                f"{context.model.path}; it has {', '.join(sorted(known))}; "
                f"{did_you_mean(missing[0], known)}"
            )

    def adapt(self, net: nn.Module, context: Context) -> nn.Module:
        from peft import get_peft_model

        return get_peft_model(net, self.peft_config(net, context))

    def peft_config(self, net: nn.Module, context: Context) -> LoraConfig:
        """The adapters for this network; a new head is trained whole beside them."""
        from peft import LoraConfig, TaskType

        from llmexp.architecture import block_count, new_head_names

        blocks = block_count(net)
        where: dict[str, Any] = {}
        if self.layers is not None:
            if self.layers > blocks:
                raise UserError(f"strategy.layers: {self.layers} is more than its {blocks} blocks")
            where["layers_to_transform"] = list(range(blocks - self.layers, blocks))
        head = new_head_names(net)
        return LoraConfig(
            task_type=TaskType.SEQ_CLS if head else TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            modules_to_save=head or None,
            use_rslora=self.rslora,
            use_dora=self.dora,
            **where,
        )
