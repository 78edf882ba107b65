"""LoRA's sum in one product: peft adds and scales in passes of their own over every output."""

from __future__ import annotations

import sys
from functools import cache, partial
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from llmexp.nets.dequantization import Dequantised

NAME = "default"
PLAIN = (nn.Linear, Dequantised)


class Fused:
    """In front of a layer of peft's: W x + s B A x, where the scaled product of B is added onto
    that of W. Names and weights stay peft's."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        alone = self.active_adapters == [NAME] and not (self.disable_adapters or self.merged)
        if args or kwargs or not alone:
            found: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return found
        rows = x.flatten(0, -2)
        result = self.base_layer(rows)
        a, b = self.lora_A[NAME], self.lora_B[NAME].weight
        low = a(self.lora_dropout[NAME](self._cast_input_dtype(rows, a.weight.dtype)))
        # In place where W x is a plain product: its backward pass needs nothing of what it was.
        plain = type(self.base_layer) in PLAIN
        add = result.addmm_ if plain else partial(torch.addmm, result)
        result = add(low.to(result.dtype), b.t().to(result.dtype), alpha=self.scaling[NAME])
        return result.view(*x.shape[:-1], -1)


def fuse(net: nn.Module) -> None:
    """Let plain adapters, on plain layers and on those in 4 bits, add themselves."""
    four_bit = sys.modules.get("bitsandbytes.nn")
    bases = (*PLAIN, four_bit.Linear4bit) if four_bit else PLAIN
    layers: list[Any] = [m for m in net.modules() if isinstance(m, LoraLayer)]
    for layer in layers:
        simple = type(layer.base_layer) in bases and not layer.lora_variant
        if simple and layer.lora_B[NAME].bias is None:
            kind: Any = type(layer)
            layer.__class__ = _fused(kind)


@cache
def _fused(kind: Any) -> Any:
    return type(f"Fused{kind.__name__}", (Fused, kind), {})
