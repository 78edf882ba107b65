"""Cross-entropy of one label for each row of features."""

from __future__ import annotations

from torch import Tensor

from llmexp.tasks.base import IGNORE, Loss
from llmexp.tasks.cross_entropy import cross_entropy


def feature_loss(logits: Tensor, labels: Tensor) -> Loss:
    """Summed over the rows with a label; logits [B, C]."""
    return Loss(cross_entropy(logits, labels), (labels != IGNORE).sum(), logits, labels)
