"""Checkpoints that are quantised already, as their config.json says."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

# Quantisation method -> the package that can run it and train adapters on it.
NEEDS = {"gptq": "gptqmodel", "awq": "gptqmodel", "bitsandbytes": "bitsandbytes"}


def method(quantization: Any) -> str:
    """The method's name, from the config's dictionary or the object transformers makes of it."""
    if not isinstance(quantization, dict):
        quantization = quantization.to_dict()
    # transformers keeps the name in an enumeration.
    name = quantization.get("quant_method") or "unknown"
    return str(getattr(name, "value", name)).lower()


def complaints(quantization: Any) -> list[str]:
    """Why this machine cannot put adapters on such a checkpoint."""
    name = method(quantization)
    if name not in NEEDS:
        return [
            f"model.path: the checkpoint is quantised with {name}, on which adapters are not "
            f"trained; take one quantised with {', '.join(sorted(NEEDS))}, or an unquantised one"
        ]
    if find_spec(NEEDS[name]) is None:
        return [
            f"model.path: the checkpoint is quantised with {name}, which needs the package "
            f"{NEEDS[name]}: pip install {NEEDS[name]}; or take an unquantised checkpoint"
        ]
    return []


def exact(net: Any) -> Any:
    """Let 4-bit layers compute alike in training and in evaluation, on every CPU.

    Where a CPU has avx512_bf16, bitsandbytes (0.50) answers a layer in eval mode in bfloat16, on
    weights that it packs anew with rounded scales and that stay packed when training goes on: the
    scores become those of another network, and gradients do not pass through a packed layer.
    """
    for module in net.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return net
