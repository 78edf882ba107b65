"""A classifier on the features of a frozen backbone that runs once per text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from llmexp.classifiers import SKLEARN, Name, check_options
from llmexp.config import Fraction, PositiveInt, RunConfig, spec
from llmexp.nets.pooling import Pooling, natural
from llmexp.strategies.base import TRAINING, Strategy
from llmexp.tasks.classification import Classification

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from llmexp.context import Context
    from llmexp.models import HFModel
    from llmexp.tasks.base import Task


@spec
class FeatureBased(Strategy):
    """Pooled last hidden states, then a classifier of one's choice (Devlin et al. 2019, 5.3)."""

    pooling: Pooling | None
    """null is what the model's YAML calls natural."""
    classifier: Name
    hidden: PositiveInt
    """Width of the mlp."""
    dropout: Fraction
    """On the hidden layer of the mlp."""
    batch_size: PositiveInt
    """Rows of features in a step: they are small, so there may be more of them than texts."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the scikit-learn classifier by its own names."""

    def check(self, model: HFModel, task: Task, config: RunConfig) -> list[str]:
        found = Strategy.check(self, model, task, config)
        if not isinstance(task, Classification):
            found.append(
                f"strategy: feature_based puts a classifier on features, and data poses "
                f"{task.kind}; strategy=lora or strategy=head_only works on it"
            )
        if task.streaming:
            found.append(
                "data.streaming: feature_based computes the features of all train rows first, and "
                "a stream never has them all; use strategy=head_only or data.streaming=false"
            )
        return found

    def unread(self, model: HFModel, task: Task) -> dict[str, str]:
        found = Strategy.unread(self, model, task)
        why = "texts run through the frozen backbone once, before any step"
        names = ("data.batch_size", "data.tokens_per_batch", "data.num_workers")
        found |= dict.fromkeys(names, why)
        found |= dict.fromkeys(
            ("model.dropout", "model.gradient_checkpointing", "model.compile"), why
        )
        if self.pooling is None:
            del found["model.pooling"]
        else:
            found["model.pooling"] = f"strategy.pooling={self.pooling} stands in its place"
        if self.classifier in SKLEARN:
            found |= dict.fromkeys(TRAINING, f"{self.classifier} is fitted, not stepped")
        if self.classifier != "mlp":
            why = f"{self.classifier} has no hidden layer"
            found |= dict.fromkeys(("strategy.hidden", "strategy.dropout"), why)
        return found

    def check_targets(self, context: Context) -> None:
        check_options(self.classifier, self.options)

    def pooling_of(self, context: Context) -> Pooling:
        return self.pooling or natural(context.model, context.config)

    def load(self, context: Context) -> nn.Module:
        from transformers import AutoModel

        return context.model.load(AutoModel, context.config)

    def adapt(self, net: nn.Module, context: Context) -> nn.Module:
        from llmexp.modules.features import FeatureNet, TorchClassifier

        classifier = None
        if self.classifier not in SKLEARN:
            width = context.config.get_text_config().hidden_size
            classes = len(context.examples.labels)
            classifier = TorchClassifier(self.classifier, width, classes, self.hidden, self.dropout)
        return FeatureNet(net.requires_grad_(False).eval(), classifier)

    def meant(self, net: nn.Module, context: Context) -> set[str] | None:
        return {name for name, _ in net.named_parameters() if name.startswith("classifier.")}

    def data(self, context: Context, net: Any) -> pl.LightningDataModule:
        from llmexp.data.features import FeatureData

        return FeatureData(context, net.backbone, self.pooling_of(context), self.batch_size)

    def module(self, net: Any, context: Context) -> Any:
        from llmexp.modules.features import FeatureClassifier
        from llmexp.modules.sklearn import SklearnClassifier

        if self.classifier in SKLEARN:
            return SklearnClassifier(context)
        return FeatureClassifier(net.classifier, context)

    def export(self, module: Any, context: Context) -> None:
        from llmexp.export.feature_folder import export

        export(module, context, self.pooling_of(context))
