"""Streaming metrics: they keep counts, never logits, and agree across ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection, SumMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from llmexp.tasks.base import IGNORE, Loss


class ExampleMean(nn.Module):
    """The mean loss over supervised positions, exact over batches and ranks."""

    def __init__(self) -> None:
        super().__init__()
        # Not MeanMetric: torchmetrics 1.9 drops its weights where nan_strategy is "disable", and
        # any other strategy hides a loss that is not finite.
        self.total = SumMetric(nan_strategy="disable").set_dtype(torch.float64)
        self.count = SumMetric(nan_strategy="disable").set_dtype(torch.float64)

    def update(self, loss: Loss) -> None:
        self.total.update(loss.total.detach().double())
        self.count.update(loss.count.double())

    def compute(self) -> Tensor:
        return self.total.compute() / self.count.compute()

    def reset(self) -> None:
        self.total.reset()
        self.count.reset()


class ClassificationScores(nn.Module):
    """loss, accuracy, macro precision, recall and f1, f1/<label>, and a confusion matrix."""

    def __init__(self, labels: list[str]):
        super().__init__()
        self.labels = labels
        shape: dict[str, Any] = {"num_classes": len(labels), "ignore_index": IGNORE}
        shape["validate_args"] = False
        self.mean_loss = ExampleMean()
        self.metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(average="micro", **shape),
                "precision_macro": MulticlassPrecision(average="macro", **shape),
                "recall_macro": MulticlassRecall(average="macro", **shape),
                "f1_macro": MulticlassF1Score(average="macro", **shape),
                "f1": MulticlassF1Score(average="none", **shape),
                "confusion": MulticlassConfusionMatrix(**shape),
            },
            # Named, not discovered: discovery compares states, and all are zero on an empty rank.
            compute_groups=[
                ["accuracy"],
                ["precision_macro", "recall_macro", "f1_macro", "f1"],
                ["confusion"],
            ],
        )

    def update(self, loss: Loss) -> None:
        assert loss.logits is not None
        self.mean_loss.update(loss)
        self.metrics.update(loss.logits.detach(), loss.labels)

    def compute(self) -> dict[str, float]:
        values = self.metrics.compute()
        values.pop("confusion")
        each = values.pop("f1")
        scores = {"loss": float(self.mean_loss.compute())}
        scores |= {name: float(value) for name, value in values.items()}
        return scores | {f"f1/{n}": float(v) for n, v in zip(self.labels, each, strict=True)}

    def confusion(self) -> list[list[int]]:
        """Rows are references, columns predictions, in label order."""
        return self.metrics["confusion"].compute().tolist()

    def reset(self) -> None:
        self.mean_loss.reset()
        self.metrics.reset()
