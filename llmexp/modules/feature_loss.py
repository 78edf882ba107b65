"""Cross-entropy of one label for each row of features."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from llmexp.tasks.base import IGNORE, Loss


def feature_loss(logits: Tensor, labels: Tensor) -> Loss:
    """Summed over the rows with a label; logits [B, C]."""
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return Loss(total, (labels != IGNORE).sum(), logits, labels)
