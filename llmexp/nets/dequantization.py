"""A 4-bit base as the numbers its four bits stand for."""

from __future__ import annotations

import os
from typing import Any

import psutil
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Dequantised(nn.Linear):
    """Computes in the type of its weights whatever it is given, as a layer in 4 bits does."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.to(self.weight.dtype), self.weight, self.bias).to(input.dtype)


def needed_bytes(net: nn.Module) -> int:
    """What the 4-bit layers would take in the type that they compute in."""
    return sum(
        layer.in_features * layer.out_features * layer.compute_dtype.itemsize
        for _, layer in _layers(net)
    )


def free_bytes() -> int:
    """Memory that this process may still take: its GPU's, or its share of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return psutil.virtual_memory().available // processes


@torch.no_grad()
def dequantise(net: Any) -> Any:
    """Put a plain layer in the place of each in 4 bits; bitsandbytes would compute the same."""
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in _layers(net):
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        plain = Dequantised(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight.to(layer.compute_dtype), requires_grad=False)
        if layer.bias is not None:
            bias = layer.bias.data.to(layer.compute_dtype)
            plain.bias = nn.Parameter(bias, requires_grad=False)
        net.set_submodule(name, plain)
    return net


def _layers(net: nn.Module) -> list[tuple[str, Any]]:
    from bitsandbytes.nn import Linear4bit

    return [(name, layer) for name, layer in net.named_modules() if isinstance(layer, Linear4bit)]
