"""Where things are in a transformers network: its blocks, its head, its linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from llmexp.errors import UserError

if TYPE_CHECKING:
    from llmexp.context import Context


def unwrapped(net: Any) -> Any:
    """The transformers network inside peft's wrapper."""
    return net.get_base_model() if hasattr(net, "peft_config") else net


def backbone(net: Any) -> Any:
    """The pretrained body, without the head."""
    net = unwrapped(net)
    return getattr(net, net.base_model_prefix, net)


def blocks(net: Any) -> nn.ModuleList:
    """The transformer blocks, bottom first: the longest list of modules of one class."""
    best: nn.ModuleList | None = None
    for module in backbone(net).modules():
        if isinstance(module, nn.ModuleList) and len({type(m) for m in module}) == 1:
            if best is None or len(module) > len(best):
                best = module
    if best is None:
        raise UserError(f"{type(unwrapped(net)).__name__} has no list of transformer blocks")
    return best


def block_count(net: Any) -> int:
    return len(blocks(net))


def new_head_names(net: Any) -> list[str]:
    """Names of the modules beside the backbone that a task head added (score, classifier ...).

    Empty on a language model, whose output head came with the checkpoint.
    """
    net = unwrapped(net)
    body = backbone(net)
    output = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
    return [
        name
        for name, child in net.named_children()
        if child is not body and child is not output and any(True for _ in child.parameters())
    ]


def empty_network(context: Context) -> nn.Module:
    """The network's shape without its weights (meta device): milliseconds, no memory."""
    import torch

    with torch.device("meta"):
        return context.task.auto_class().from_config(context.config)


def linear_names(net: nn.Module) -> set[str]:
    """The last part of the name of every linear layer of the backbone."""
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    return {n.rpartition(".")[2] for n, m in backbone(net).named_modules() if isinstance(m, kinds)}
