"""One label for each text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from llmexp.config import spec
from llmexp.errors import UserError
from llmexp.tasks.base import IGNORE, Batch, Encoded, Examples, Loss, Row, Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def text_keys(labels: Any) -> Any:
    """Class names as text: YAML reads a bare 0 or true as a number or a truth."""
    if not isinstance(labels, dict):
        return labels
    return {k if isinstance(k, str) else str(k).lower(): v for k, v in labels.items()}


@spec
class Classification(Task):
    """Rows of `text` (perhaps `text_pair`) and `label`."""

    kind: ClassVar[str] = "classification"
    predictor: ClassVar[str] = "classifier"

    labels: Annotated[dict[str, str], BeforeValidator(text_keys)] = Field(default_factory=dict)
    """Raw label -> words that describe it; prompting reads these."""

    overflow: Literal["truncate", "drop", "error"] = "truncate"
    """What happens to a row longer than `max_length`; what is cut is the end of its text."""

    def specimens(self, split: str) -> list[Row]:
        from llmexp.data.specimens import labelled

        return labelled(self, split)

    def canonical(self, raw: Row, where: str) -> Row:
        from llmexp.data.formats import classification_row

        return classification_row(raw, self, where)

    def auto_class(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def config_changes(self, labels: list[str]) -> dict[str, Any]:
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {name: i for i, name in enumerate(labels)},
            "problem_type": "single_label_classification",
        }

    def encode(
        self,
        rows: list[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        labels: list[str],
    ) -> Encoded:
        index = {name: i for i, name in enumerate(labels)}
        # A token more than fits tells which rows are too long, without the whole of them.
        ids = _ids(rows, tokenizer, max_length + 1)
        long = [i for i, one in enumerate(ids) if len(one) > max_length]
        if long and self.overflow == "error":
            raise UserError(
                f"data.overflow: row {long[0]} has more than data.max_length={max_length} tokens "
                f"({len(long)} rows have); raise it, or use data.overflow=truncate"
            )
        counts = {}
        if long:
            counts["truncated" if self.overflow == "truncate" else "dropped"] = len(long)
            cut = _ids([rows[i] for i in long], tokenizer, max_length)
            for i, one in zip(long, cut, strict=True):
                ids[i] = one if self.overflow == "truncate" else []
        encoded = [
            {"input_ids": ids[i], "labels": index.get(row.get("label", ""), IGNORE), "index": i}
            for i, row in enumerate(rows)
            if ids[i]
        ]
        return Encoded(encoded, counts)

    def prove(self, net: nn.Module) -> None:
        from llmexp.nets.last_block import read_first
        from llmexp.nets.last_token import read_last

        read_first(net) or read_last(net)

    def collate(self, rows: list[Row], pad_id: int) -> Batch:
        import torch

        from llmexp.data.batches import pad

        batch = pad(rows, pad_id)
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    def loss(self, net: nn.Module, batch: Batch) -> Loss:
        from llmexp.tasks.cross_entropy import cross_entropy

        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        logits = net(**inputs).logits.float()  # [B, C]
        labels = batch["labels"]
        return Loss(cross_entropy(logits, labels), (labels != IGNORE).sum(), logits, labels)

    def scores(self, labels: list[str]) -> nn.Module:
        from llmexp.tasks.scores import ClassificationScores

        return ClassificationScores(labels)

    def baseline(self, examples: Examples) -> dict[str, float]:
        """The train majority, predicted for every test row."""
        import torch

        counts = Counter(row["label"] for row in examples.train)
        majority = max(sorted(counts), key=lambda name: counts[name])
        index = {name: i for i, name in enumerate(examples.labels)}
        truth = torch.tensor([index[row["label"]] for row in examples.test])
        total = sum(counts.values())
        frequency = torch.tensor([counts[name] / total for name in examples.labels])
        scores: Any = self.scores(examples.labels)
        guess = torch.full((len(truth), len(examples.labels)), 0.0)
        guess[:, index[majority]] = 1.0
        loss = -frequency.log()[truth].sum()
        scores.update(Loss(loss, torch.tensor(len(truth)), guess, truth))
        return {f"test/{name}": float(v) for name, v in scores.compute().items()}

    def answers(
        self,
        net: Any,
        rows: list[Row],
        loss: Loss,
        tokenizer: PreTrainedTokenizerBase,
        labels: list[str],
    ) -> list[Row]:
        assert loss.logits is not None
        return label_answers(rows, loss.logits.softmax(-1).tolist(), labels)


def _ids(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    texts = [row["text"] for row in rows]
    pairs = [row["text_pair"] for row in rows] if rows and "text_pair" in rows[0] else None
    found: list[list[int]] = tokenizer(texts, pairs, truncation=True, max_length=max_length)[
        "input_ids"
    ]
    return found


def label_answers(
    rows: list[Row], probabilities: list[list[float]], labels: list[str]
) -> list[Row]:
    """Predictions with a score for every label."""
    answers = []
    for row, scores in zip(rows, probabilities, strict=True):
        best = max(range(len(labels)), key=scores.__getitem__)
        answer = {"input": row["text"]}
        if "text_pair" in row:
            answer["input_pair"] = row["text_pair"]
        answer |= {"reference": row.get("label"), "prediction": labels[best]}
        answer["scores"] = {name: round(s, 6) for name, s in zip(labels, scores, strict=True)}
        answers.append(answer)
    return answers
