"""Streaming metrics over tokens: sums and counts, exact over batches and ranks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torchmetrics import SumMetric

from llmexp.tasks.base import Loss


class TokenScores(nn.Module):
    """loss, perplexity, token_accuracy, and bits_per_byte where losses say their bytes."""

    def __init__(self) -> None:
        super().__init__()
        names = ("nats", "tokens", "right", "bytes")
        self.sums: Any = nn.ModuleDict(
            {n: SumMetric(nan_strategy="disable").set_dtype(torch.float64) for n in names}
        )

    def update(self, loss: Loss) -> None:
        self.sums["nats"].update(loss.total.detach().double())
        self.sums["tokens"].update(loss.count)
        right = loss.right
        if right is None:
            assert loss.logits is not None
            right = (loss.logits.argmax(-1) == loss.labels).sum()
        self.sums["right"].update(right)
        spelled = loss.text_bytes
        self.sums["bytes"].update(0 if spelled is None else spelled.sum())

    def compute(self) -> dict[str, float]:
        nats, tokens, right, size = (float(m.compute()) for m in self.sums.values())
        mean = nats / tokens if tokens else math.nan
        # exp overflows above 709; a perplexity that large says diverged, not broken.
        scores = {"loss": mean, "perplexity": math.exp(mean) if mean < 700 else math.inf}
        scores["token_accuracy"] = right / tokens if tokens else math.nan
        if size:
            scores["bits_per_byte"] = nats / math.log(2) / size
        return scores

    def reset(self) -> None:
        for metric in self.sums.values():
            metric.reset()
