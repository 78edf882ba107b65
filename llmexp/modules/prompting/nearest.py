"""Encoders: the label whose description, or whose examples' centroid, is nearest to the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from llmexp.exemplars import Exemplars, nearest
from llmexp.modules.prompting.base import Asked, load_tensors, shown
from llmexp.modules.prompting.embedding import embed, embed_rows
from llmexp.nets.pooling import natural
from llmexp.prompts import verbalised
from llmexp.tasks.base import IGNORE, Batch, Loss, Row
from llmexp.tasks.classification import Classification, label_answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmexp.context import Context
    from llmexp.strategies.prompting import Prompting


@dataclass
class Centroids:
    """One unit vector a class [C, H], or those of the examples [N, H] nearest to each query."""

    tensors: dict[str, Tensor]
    classes: int
    nearest: int | None
    temperature: float

    @classmethod
    def of(
        cls, described: Tensor, examples: Tensor, labels: Tensor, k: int | None, temperature: float
    ) -> Centroids:
        """A class of which no example was drawn is represented by its description."""
        classes = len(described)
        if k is not None:
            tensors = {"examples": examples, "labels": labels}
        else:
            means = [
                F.normalize(examples[labels == c].mean(0), dim=-1) if (labels == c).any() else d
                for c, d in enumerate(described)
            ]
            tensors = {"centroids": torch.stack(means)}
        return cls(tensors, classes, k, temperature)

    def logits(self, query: Tensor) -> Tensor:
        """Cosine similarity of unit vectors [B, H] with each class, over temperature: [B, C]."""
        if self.nearest is None:
            return query @ self.tensors["centroids"].T / self.temperature
        examples, labels = self.tensors["examples"], self.tensors["labels"]
        found = nearest(query, examples, labels, self.classes, self.nearest)  # [B, C, k]
        means = F.normalize(examples[found].mean(2), dim=-1)  # [B, C, H]
        return torch.einsum("bh,bch->bc", query, means) / self.temperature


class NearestLabel(Asked):
    """Scores are softmax(cosine similarity / temperature)."""

    predictor = "nearest"

    def __init__(self, net: nn.Module, context: Context, strategy: Prompting, exemplars: Exemplars):
        super().__init__(net, context, exemplars)
        task = context.task
        assert isinstance(task, Classification)  # the strategy chose this module for one
        self.strategy = strategy
        self.pooling = natural(context.model, context.config)
        words = verbalised(task, self.labels)
        template = strategy.hypothesis or "{label}"
        self.descriptions = {name: template.replace("{label}", w) for name, w in words.items()}
        self.centroids: Centroids | None = None

    def embed_texts(self, rows: list[Row]) -> Tensor:
        c = self.context
        encoded = self.task.encode(rows, c.tokenizer, c.max_length, self.labels).rows
        return embed_rows(self.net, encoded, self.pooling, self.task.batch_size, c.pad_id)

    def prepare(self) -> Centroids:
        """Embed descriptions and examples; where the network is by then."""
        described = self.embed_texts([{"text": text} for text in self.descriptions.values()])
        rows = self.exemplars.rows
        examples = self.embed_texts(rows) if rows else described[:0]
        index = {name: i for i, name in enumerate(self.labels)}
        labels = torch.tensor([index[r["label"]] for r in rows], device=described.device)
        k, temperature = self.exemplars.nearest, self.strategy.temperature
        return Centroids.of(described, examples, labels, k, temperature)

    def loss(self, batch: Batch) -> Loss:
        if self.centroids is None:
            self.centroids = self.prepare()
        logits = self.centroids.logits(embed(self.net, batch, self.pooling))
        return label_loss(logits, batch["labels"])

    def facts(self) -> dict[str, Any]:
        fixed = self.exemplars.nearest is None
        return {
            "pooling": self.pooling,
            "temperature": self.strategy.temperature,
            "hypothesis": self.strategy.hypothesis,
            "descriptions": self.descriptions,
            "nearest": self.exemplars.nearest,
            "examples": shown(self.exemplars) if fixed else [],
            "batch_size": self.task.batch_size,
        }

    def tensors(self) -> dict[str, Tensor]:
        assert self.centroids is not None  # made for the first batch
        return self.centroids.tensors


def label_loss(logits: Tensor, labels: Tensor) -> Loss:
    """Cross entropy of label scores [B, C], summed."""
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return Loss(total, (labels != IGNORE).sum(), logits, labels)


@dataclass
class NearestPredictor:
    """The same answers from a run's `model/` folder."""

    net: Any
    tokenizer: PreTrainedTokenizerBase
    centroids: Centroids
    facts: dict[str, Any]

    def predict(self, texts: Sequence[str]) -> list[Row]:
        """For each text its label and the score of every label."""
        f = self.facts
        ids = self.tokenizer(list(texts), truncation=True, max_length=f["max_length"])["input_ids"]
        encoded = [{"input_ids": row, "index": i} for i, row in enumerate(ids)]
        pad_id = self.tokenizer.pad_token_id or 0
        features = embed_rows(self.net, encoded, f["pooling"], f["batch_size"], pad_id)
        return scored(self.centroids.logits(features), f["labels"])


def scored(logits: Tensor, labels: list[str]) -> list[Row]:
    """Label scores [B, C] as predictions."""
    rows: list[Row] = [{"text": ""} for _ in logits]
    answers = label_answers(rows, logits.softmax(-1).tolist(), labels)
    return [{"prediction": a["prediction"], "scores": a["scores"]} for a in answers]


def load_predictor(folder: Path, facts: dict[str, Any]) -> NearestPredictor:
    """The predictor that a zero_shot or few_shot run of an encoder exported."""
    from transformers import AutoModel

    from llmexp.predict.predictors import load_base, load_tokenizer

    net = load_base(facts, AutoModel)
    tensors = {k: v.to(net.device) for k, v in load_tensors(folder).items()}
    centroids = Centroids(tensors, len(facts["labels"]), facts["nearest"], facts["temperature"])
    return NearestPredictor(net, load_tokenizer(folder), centroids, facts)
