"""Which modules a strategy trains: the head, what lies above the blocks, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from torch import nn

from llmexp.errors import UserError
from llmexp.nets.architecture import backbone, blocks, new_head_names, unwrapped


def train_only(net: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Freeze everything but the parameters of these modules."""
    net.requires_grad_(False)
    for module in modules:
        module.requires_grad_(True)


def names_in(net: nn.Module, modules: Iterable[nn.Module]) -> set[str]:
    """The names that the parameters of these modules have in the network."""
    inside = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name for name, parameter in net.named_parameters() if id(parameter) in inside}


def has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def beside_blocks(net: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules of the backbone (below, above) its blocks, in the order they are registered.

    Above is what has no say in the states that blocks return: the final norm, a pooler, and what
    comes later without parameters. Whatever else stands beside the blocks may feed them, wherever
    it is registered (the relative positions of DeBERTa and MPNet come after).
    """
    stack, here = blocks(net), backbone(net)
    below: list[nn.Module] = []
    above: list[nn.Module] = []
    while here is not stack:
        children = list(here.named_children())
        at = next(i for i, (_, child) in enumerate(children) if stack in child.modules())
        final = final_norms(children, at)
        for i, (name, child) in enumerate(children):
            later = i > at and ("pool" in name or not has_parameters(child))
            if i != at:
                (above if later or child in final else below).append(child)
        here = children[at][1]
    return below, above


def final_norms(children: list[tuple[str, nn.Module]], at: int) -> list[nn.Module]:
    """The norms beside the blocks, which are number `at`, that are not of embeddings.

    They may be registered first (OPT's). A norm that follows embeddings which follow the blocks
    is theirs (DeBERTa's), and so is one that is named after them (BLOOM's).
    """
    if any(isinstance(child, nn.Embedding) for _, child in children[at + 1 :]):
        return []
    return [child for name, child in children if is_norm(child) and "emb" not in name]


def is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not list(module.children())


def head_modules(net: Any) -> list[nn.Module]:
    """The task head with the backbone's pooler, or the output head of a language model."""
    inner = unwrapped(net)
    heads = [inner.get_submodule(name) for name in new_head_names(net)]
    output = inner.get_output_embeddings()
    if output is not None:
        untie(inner)
        heads.append(output)
    if not heads:
        raise UserError(
            f"strategy: {type(inner).__name__} has no head that could be trained apart from its "
            "backbone; strategy=lora and strategy=full_finetune work on it"
        )
    return heads + [m for m in beside_blocks(net)[1] if has_parameters(m) and not is_norm(m)]


def untie(net: Any) -> None:
    """Give the output head its own copy of the weight that it shares with the embeddings."""
    output, embeddings = net.get_output_embeddings(), net.get_input_embeddings()
    if output.weight is not embeddings.weight:
        return
    output.weight = nn.Parameter(output.weight.detach().clone())
    net.config.tie_word_embeddings = False
    net.config.get_text_config().tie_word_embeddings = False
    # Saving and loading would tie again whatever is listed here (transformers 5).
    net.all_tied_weights_keys = {}


def rest(net: nn.Module) -> None:
    """Put every module without a trained parameter into eval mode: frozen parts do not drop out."""
    for module in net.modules():
        if has_parameters(module) and not is_trained(module):
            module.eval()
    if frozen_blocks(net):
        # A dropout between embeddings and blocks (GPT-2's) has no parameter to tell by.
        for module in beside_blocks(net)[0]:
            module.eval()


def frozen_blocks(net: Any) -> list[nn.Module]:
    """The blocks below the lowest trained parameter, bottom first; [] where that is below them."""
    try:
        below, stack = beside_blocks(net)[0], blocks(net)
    except UserError:
        return []
    if any(is_trained(module) for module in below) or not is_trained(net):
        return []
    return list(takewhile(lambda block: not is_trained(block), stack))


def is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
