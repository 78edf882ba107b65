"""A scikit-learn classifier in the place of a network: fitted once, on all train features."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from llmexp.classifiers import TRUSTED, sklearn_classifier
from llmexp.modules.evaluation import Evaluation
from llmexp.modules.feature_loss import feature_loss
from llmexp.tasks.base import Batch, Loss

if TYPE_CHECKING:
    from llmexp.context import Context

STATE = "classifier"


class SklearnClassifier(Evaluation):
    """`trainer.fit` fits it without a gradient; validation and test are everyone's."""

    def __init__(self, context: Context):
        super().__init__(context)
        self.net = nn.Identity()
        self.nothing = nn.Parameter(torch.zeros(()))
        self.classifier: Any = None
        self.strict_loading = False
        self.tokens_trained = 0

    def on_train_start(self) -> None:
        """Fit here, not in a step: on every rank the same, on all the rows."""
        if self.classifier is None:
            trainer: Any = self.trainer
            data = trainer.datamodule
            rows = data.encoded["train"].rows
            features = data.features["train"].numpy()
            self.fit(features, np.array([row["labels"] for row in rows]))
            self.tokens_trained = sum(len(row["input_ids"]) for row in rows)

    def fit(self, features: Any, labels: Any) -> None:
        strategy: Any = self.context.strategy
        notes = self.context.examples.notes
        fewest = min(Counter(labels.tolist()).values())
        self.classifier = sklearn_classifier(
            strategy.classifier, strategy.options, self.context.seed, fewest, notes
        )
        self.classifier.fit(features, labels)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Nothing is left to learn; ends the training after its first validation."""
        self.trainer.should_stop = True

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Of a parameter that nothing reads: the Trainer and its callbacks expect an optimizer."""
        return torch.optim.SGD([self.nothing], lr=0.0)

    def loss(self, batch: Batch) -> Loss:
        probabilities = class_probabilities(self.classifier, batch["features"], len(self.labels))
        return feature_loss(probabilities.log().to(batch["labels"].device), batch["labels"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The classifier as skops bytes: a checkpoint is never a pickle of somebody's objects."""
        from skops.io import dumps

        data = np.frombuffer(dumps(self.classifier), dtype=np.uint8).copy()
        checkpoint["validation_metrics"] = self.validation_metrics
        checkpoint["state_dict"] = {STATE: torch.from_numpy(data)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        from skops.io import loads

        self.validation_metrics = checkpoint["validation_metrics"]
        data = checkpoint["state_dict"].pop(STATE).numpy().tobytes()
        self.classifier = loads(data, trusted=TRUSTED)

    def restore_best(self, trainer: pl.Trainer) -> None:
        """It was fitted once, so what is here is the best there is."""


def class_probabilities(classifier: Any, features: Tensor, classes: int) -> Tensor:
    """[B, classes] in float32, none of them 0; a class that train never held gets the least."""
    found = torch.from_numpy(classifier.predict_proba(features.cpu().numpy())).float()
    least = torch.finfo(torch.float32).eps
    full = torch.full((len(found), classes), least)
    full[:, torch.from_numpy(classifier.classes_).long()] = found.clamp(min=least)
    return full / full.sum(1, keepdim=True)
