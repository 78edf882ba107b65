"""Where things are in a transformers network: its blocks, its head, its linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from llmexp.errors import UserError

if TYPE_CHECKING:
    from llmexp.context import Context


def unwrapped(net: Any) -> Any:
    """The transformers network inside peft's wrapper."""
    # A network with adapters has a `peft_config` inside the wrapper too.
    return net.get_base_model() if hasattr(net, "get_base_model") else net


def backbone(net: Any) -> Any:
    """The pretrained body, without the head."""
    net = unwrapped(net)
    return getattr(net, getattr(net, "base_model_prefix", ""), net)


def blocks(net: Any) -> nn.ModuleList:
    """The transformer blocks, bottom first: the longest list of modules of one class."""
    best: nn.ModuleList | None = None
    for module in backbone(net).modules():
        alike = isinstance(module, nn.ModuleList) and len({type(m) for m in module}) == 1
        if alike and (best is None or len(module) > len(best)):
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
        if not any(child is other for other in (body, output))
        and body is not net
        and any(True for _ in child.parameters())
    ]


def empty_network(context: Context) -> nn.Module:
    """The network's shape without its weights (meta device): milliseconds, no memory."""
    import torch

    with torch.device("meta"):
        return context.task.auto_class().from_config(context.config)


def linear_paths(net: Any) -> list[str]:
    """Full names of the linear layers of the backbone; those of a head are left out."""
    from transformers.pytorch_utils import Conv1D

    body = {id(m) for m in backbone(net).modules()}
    output = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
    return [
        name
        for name, module in net.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and id(module) in body and module is not output
    ]


def is_conv1d(module: nn.Module) -> bool:
    """Whether a layer keeps its weight transposed, as GPT-2 does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def block_of(net: nn.Module, path: str) -> int | None:
    """The number of the block that holds the module at `path`, bottom is 0; None outside."""
    stack = blocks(net)
    prefix = next(n for n, m in net.named_modules() if m is stack) + "."
    return int(path.removeprefix(prefix).split(".")[0]) if path.startswith(prefix) else None


def new_modules(net: Any) -> list[str]:
    """Names of the modules with a parameter that the checkpoint did not hold."""
    names = getattr(unwrapped(net), "missing_keys", [])
    return sorted({name.rpartition(".")[0] for name in names})
