"""A strategy: train the biases and nothing else (Ben Zaken et al. 2022)."""

from typing import Any

from llmexp.config import spec
from llmexp.context import Context
from llmexp.strategies.base import Strategy


@spec
class BitFit(Strategy):
    """Every bias is trained, and the new head; all other weights stay as they were."""

    norms: bool
    """Also the gains of the layer norms."""

    def adapt(self, net: Any, context: Context) -> Any:
        from llmexp.nets.architecture import new_head_names

        head = tuple(f"{name}." for name in new_head_names(net))
        for name, parameter in net.named_parameters():
            gain = self.norms and parameter.ndim == 1
            parameter.requires_grad = gain or name.endswith("bias") or name.startswith(head)
        return net
