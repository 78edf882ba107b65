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
    """`all-linear` is every linear layer of the backbone; else the ends of module names."""
    rslora: bool
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023)."""
    dora: bool
    """Magnitude and direction apart (Liu et al. 2024)."""
    layers: PositiveInt | None
    """Adapters on the top blocks only, this many; null puts them on all."""
    merge: bool
    """Also export the adapters merged into the unquantised base, as `model-merged/`."""

    def check(self, model: HFModel, task: Task, config: RunConfig) -> list[str]:
        found = Strategy.check(self, model, task, config)
        if self.target_modules == []:
            found.append("strategy.target_modules: names no module; try all-linear")
        if model.quantized():
            found += self.quantized_complaints(model.facts()["quantization_config"])
        return found

    def check_targets(self, context: Context) -> None:
        """Every name must match a linear layer: peft reports only when none does."""
        from llmexp.nets.architecture import empty_network, linear_paths

        quantization = getattr(context.config, "quantization_config", None)
        if quantization is not None:
            for complaint in self.quantized_complaints(quantization):
                raise UserError(complaint)
        self.targets(context)
        if self.target_modules == "all-linear":
            return
        paths = linear_paths(empty_network(context))
        known = {path.rpartition(".")[2] for path in paths}
        missing = [n for n in self.target_modules if not any(_ends(path, n) for path in paths)]
        if missing:
            raise UserError(
                f"strategy.target_modules: {', '.join(missing)} "
                f"{'matches' if len(missing) == 1 else 'match'} no linear layer of "
                f"{context.model.path}; it has {', '.join(sorted(known))}; "
                f"{did_you_mean(missing[0], known)}"
            )

    def quantized_complaints(self, quantization: Any) -> list[str]:
        """Why adapters cannot be put on a checkpoint that is quantised already."""
        from llmexp.nets.quantization import complaints

        found = complaints(quantization)
        if self.merge:
            found.append(
                "strategy.merge: this checkpoint is quantised, so there is no unquantised base to "
                "merge into; leave strategy.merge=false"
            )
        return found

    def targets(self, context: Context) -> list[str]:
        """Full names of the layers that get an adapter."""
        from llmexp.nets.architecture import block_of, blocks, empty_network, linear_paths

        net = empty_network(context)
        paths = linear_paths(net)
        if self.target_modules != "all-linear":
            paths = [p for p in paths if any(_ends(p, name) for name in self.target_modules)]
        if self.layers is None:
            return paths
        count = len(blocks(net))
        if self.layers > count:
            raise UserError(
                f"strategy.layers: {self.layers} is more than the {count} blocks of "
                f"{context.model.path}"
            )
        lowest = count - self.layers
        where = {path: block_of(net, path) for path in paths}
        return [path for path, at in where.items() if at is not None and at >= lowest]

    def silent_at_first(self, net: nn.Module) -> set[str]:
        """Every A: its gradient is B's transpose times something, and B starts at zero."""
        found = dict(net.named_parameters())
        zero = [n for n, p in found.items() if "lora_B" in n and not p.detach().any()]
        return {name.replace("lora_B", "lora_A") for name in zero} & found.keys()

    def adapt(self, net: nn.Module, context: Context) -> nn.Module:
        from llmexp.unneeded import without_bitsandbytes

        with without_bitsandbytes():
            from peft import get_peft_model

            from llmexp.nets.fused_lora import fuse

            adapted = get_peft_model(net, self.peft_config(net, context))
        fuse(adapted)
        # Under checkpointing peft lets the embeddings require a gradient again (see HFModel).
        adapted.disable_input_require_grads()
        return adapted

    def meant(self, net: nn.Module, context: Context) -> set[str] | None:
        """Adapters on the targets, and what is trained whole beside them."""
        places = tuple(f"base_model.model.{path}.lora_" for path in self.targets(context))
        names = (name for name, _ in net.named_parameters())
        return {n for n in names if n.startswith(places) or ".modules_to_save." in n}

    def peft_config(self, net: nn.Module, context: Context) -> LoraConfig:
        """The adapters for this network; what the checkpoint lacks is trained whole beside them."""
        from peft import LoraConfig, TaskType

        from llmexp.nets.architecture import is_conv1d, new_head_names, new_modules

        head = new_head_names(net)
        whole = [*head, *(name for name in new_modules(net) if name.split(".")[0] not in head)]
        targets = [path for path in self.targets(context) if path not in whole]
        return LoraConfig(
            task_type=TaskType.SEQ_CLS if head else TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # any number will do
            lora_dropout=self.dropout,
            target_modules=targets,
            modules_to_save=whole or None,
            use_rslora=self.rslora,
            use_dora=self.dora,
            fan_in_fan_out=is_conv1d(net.get_submodule(targets[0])),
        )

    def export(self, module: Any, context: Context) -> None:
        from llmexp.export.folder import export_adapters, export_merged

        export_adapters(module, context)
        if self.merge:
            export_merged(module, context)


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
