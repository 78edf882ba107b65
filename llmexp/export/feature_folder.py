"""`model/` of a classifier on features: written, and loaded again as a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmexp.cache.distinct import Distinct
from llmexp.classifiers import TRUSTED
from llmexp.data.features import extract
from llmexp.errors import UserError
from llmexp.export.folder import published
from llmexp.modules.features import FeatureClassifier, TorchClassifier
from llmexp.modules.sklearn import SklearnClassifier, class_probabilities
from llmexp.nets.pooling import Pooling
from llmexp.tasks.classification import label_answers

if TYPE_CHECKING:
    from llmexp.context import Context

WEIGHTS, OBJECT = "classifier.safetensors", "classifier.skops"


def export(
    module: FeatureClassifier | SklearnClassifier, context: Context, pooling: Pooling
) -> None:
    """The classifier beside the tokenizer; the backbone stays where it came from."""
    from safetensors.torch import save_file

    strategy: Any = context.strategy
    torch_one = isinstance(module, FeatureClassifier)
    facts: dict[str, Any] = {"name": strategy.classifier}
    if torch_one:
        facts["hidden"] = strategy.hidden
    with published(
        module, context, predictor="features", pooling=pooling, classifier=facts
    ) as folder:
        if torch_one:
            save_file(
                {k: v.contiguous().cpu() for k, v in module.net.state_dict().items()},
                folder / WEIGHTS,
            )
        else:
            from skops.io import dump

            dump(module.classifier, folder / OBJECT)


class FeaturePredictor:
    """Class probabilities of texts; a pair of texts is given as a tuple."""

    def __init__(self, folder: Path, facts: dict[str, Any]):
        from transformers import AutoModel

        from llmexp.predict.predictors import load_tokenizer, recorded_base

        base = recorded_base(facts)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        net: Any = base.load(AutoModel, base.config())
        self.backbone = net.to(device)
        self.tokenizer = load_tokenizer(folder)
        self.labels: list[str] = facts["labels"]
        self.max_length: int = facts["max_length"]
        self.pooling: Pooling = facts["pooling"]
        self.probabilities = _classifier(folder, facts["classifier"], len(self.labels))

    def predict(self, texts: Sequence[Any]) -> list[dict[str, Any]]:
        """For each text its `prediction` and the `scores` of all labels."""
        rows: list[dict[str, Any]] = []
        for text in texts:
            first, second = text if isinstance(text, tuple) else (text, None)
            ids = self.tokenizer(first, second, truncation=True, max_length=self.max_length)
            rows.append({"text": first, "input_ids": list(ids["input_ids"]), "index": len(rows)})
        if not rows:
            return []
        distinct = Distinct(rows)
        width = self.backbone.config.get_text_config().hidden_size
        features = torch.empty(len(distinct), width)
        pad_id = self.tokenizer.pad_token_id or 0
        extract(self.backbone, distinct, self.pooling, pad_id, features)
        scores = self.probabilities(features[[distinct.number(row) for row in rows]])
        answers = label_answers(rows, scores.tolist(), self.labels)
        return [{k: answer[k] for k in ("prediction", "scores")} for answer in answers]


def _classifier(folder: Path, facts: dict[str, Any], classes: int) -> Any:
    """Features -> probabilities; neither file can hold code that would run."""
    if (folder / OBJECT).is_file():
        from skops.io import get_untrusted_types, load

        unknown = set(get_untrusted_types(file=folder / OBJECT)) - set(TRUSTED)
        if unknown:
            raise UserError(f"{folder / OBJECT} holds types that are not trusted: {unknown}")
        fitted = load(folder / OBJECT, trusted=TRUSTED)
        return lambda features: class_probabilities(fitted, features, classes)
    from safetensors.torch import load_file

    state = load_file(folder / WEIGHTS)
    width = len(state["mean"])
    made = TorchClassifier(facts["name"], width, classes, facts.get("hidden", 1), 0.0)
    made.load_state_dict(state)
    made.eval()

    @torch.inference_mode()
    def probabilities(features: Tensor) -> Tensor:
        return made(features).softmax(-1)

    return probabilities


def load_predictor(folder: Path, facts: dict[str, Any]) -> FeaturePredictor:
    """What `llmexp.load` returns for such a folder."""
    return FeaturePredictor(folder, facts)
