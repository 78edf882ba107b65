"""FSDP2: every process holds a shard of parameters, gradients and optimizer states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


class FullyShard(ModelParallelStrategy):
    """Shards each transformer block, then the rest, over all processes (Zhao et al. 2023).

    A quantised weight is packed integers that no shard could be computed with: it is replicated
    and left alone, and what is trained around it is sharded.
    """

    def __init__(self, process_group_backend: str | None = None):
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
        )

    def setup_environment(self) -> None:
        # Left to itself, Lightning shards over nodes and expects tensor parallelism inside each.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, net: nn.Module) -> None:
        """Shard a network in place, once."""
        from llmexp.nets.architecture import blocks

        if isinstance(net, FSDPModule):
            return
        packed = {p for p in net.parameters() if not p.is_floating_point()}
        mesh = self.device_mesh["data_parallel"]
        for block in blocks(net):
            fully_shard(block, mesh=mesh, ignored_params=packed & set(block.parameters()))
        fully_shard(net, mesh=mesh, ignored_params=packed)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole values of what is trained; gathered by all, kept by the first process."""
        assert self.lightning_module is not None
        state = {}
        for name, parameter in self.lightning_module.named_parameters():
            if parameter.requires_grad:
                value = whole(parameter.detach())
                if self.is_global_zero:
                    state[name] = value.cpu()
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state with whole tensors; gathered by all, kept by the first process."""
        state = optimizer.state_dict()
        kept = {
            number: {name: whole(value).cpu() for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": kept} if self.is_global_zero else {}

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning's own strategy does it inside `load_checkpoint`."""
        return True

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Every process reads the whole file, then keeps its shards of it."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        for module in self.lightning_module.modules():
            if isinstance(module, FSDPModule):
                # After a forward the root holds whole copies; a write into those would be lost.
                module.reshard()
        state = checkpoint["state_dict"]
        for name, parameter in self.lightning_module.named_parameters():
            if name in state:
                with torch.no_grad():
                    parameter.copy_(like(state[name], parameter))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            shards = {
                number: {name: like(value, trained[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": shards})

    def gather(self, module: Any) -> None:
        """Give the first process a whole network again: loaded anew, with what was trained."""
        state = self.lightning_module_state_dict()
        if self.is_global_zero:
            context = module.context
            module.net = context.strategy.adapt(context.strategy.load(context), context)
            module.load_state_dict(state, strict=False)


def whole(value: Tensor) -> Tensor:
    """The unsharded tensor; every process must ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor cut as the parameter is; no communication. Counters stay as they are."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)
