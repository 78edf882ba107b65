"""The loss of every task: what the network gave its labels, added up so that the sum is exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from llmexp.tasks.base import IGNORE


def wide(device: torch.device) -> torch.dtype:
    """What sums are kept in: in float32 a thousand tokens cut differently differ by 1e-6."""
    return torch.float32 if device.type == "mps" else torch.float64


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed over the labels [N] that are not IGNORE; logits [N, C]."""
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return losses.sum(dtype=wide(losses.device))


def each(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of every label [N], and whether it is the likeliest."""
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return losses, (logits.argmax(-1) == labels).to(losses)
