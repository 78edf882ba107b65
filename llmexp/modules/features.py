"""A linear layer or an MLP trained on pooled features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmexp.modules.feature_loss import feature_loss
from llmexp.modules.finetune import FineTune
from llmexp.tasks.base import Batch, Loss


class TorchClassifier(nn.Module):
    """Logits [B, C] of features [B, H], standardised by the train rows' mean and deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, width: int, classes: int, hidden: int, dropout: float):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        if name == "linear":
            self.body: nn.Module = nn.Linear(width, classes)
        else:
            self.body = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
            )

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.body((features - self.mean) / self.deviation)
        return logits

    def standardise(self, features: Tensor) -> None:
        """Take mean and deviation from these features; a constant feature stays as it is."""
        self.mean.copy_(features.mean(0))
        deviation = features.std(0, correction=0)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))


class FeatureNet(nn.Module):
    """A frozen backbone and the classifier above its pooled states."""

    def __init__(self, backbone: Any, classifier: TorchClassifier | None):
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier


class FeatureClassifier(FineTune):
    """The training loop of every strategy, on batches of features."""

    def setup(self, stage: str) -> None:
        """The data module was set up before: its train features are there."""
        trainer: Any = self.trainer
        self.net.standardise(trainer.datamodule.features["train"])

    def on_fit_start(self) -> None:
        """The task's network ran before; what trains here is not one of its kind."""

    def loss(self, batch: Batch) -> Loss:
        return feature_loss(self.net(batch["features"]).float(), batch["labels"])
