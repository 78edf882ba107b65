"""Decoders: the label whose words the model finds likeliest after the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmexp.exemplars import Exemplars
from llmexp.modules.prompting.base import Asked, load_tensors, shown
from llmexp.modules.prompting.embedding import Neighbours, embed_rows
from llmexp.modules.prompting.nearest import label_loss, scored
from llmexp.modules.prompting.scorer import ContinuationScorer
from llmexp.prompts import DEFAULT, LabelPrompts, Prompt, verbalised
from llmexp.tasks.base import Batch, Loss, Row
from llmexp.tasks.classification import Classification

if TYPE_CHECKING:
    from llmexp.context import Context
    from llmexp.strategies.prompting import Prompting


@dataclass
class Asker:
    """A language model with its prompts; the same object answers in a run and afterwards."""

    net: Any
    prompts: LabelPrompts
    scorer: ContinuationScorer
    examples: list[Row]
    neighbours: Neighbours | None

    def shown(self, batch: Batch) -> list[list[int]]:
        """For each row of a batch the positions of the examples it is shown, in order."""
        if self.neighbours is None:
            return [list(range(len(self.examples)))] * len(batch["input_ids"])
        return self.neighbours.shown(self.net, batch)

    def logits(self, rows: list[Row], shown: list[list[int]]) -> tuple[Tensor, list[Prompt]]:
        """Mean log-probability per token of each label's words [B, C], and what was asked."""
        asked = [
            self.prompts.build(row, [self.examples[p] for p in positions])
            for row, positions in zip(rows, shown, strict=True)
        ]
        return self.scorer([prompt.ids for prompt in asked]), asked


class LabelLikelihood(Asked):
    """Scores are softmax over labels of the length-normalised log-likelihood of their words."""

    predictor = "likelihood"

    def __init__(self, net: nn.Module, context: Context, strategy: Prompting, exemplars: Exemplars):
        super().__init__(net, context, exemplars)
        task = context.task
        assert isinstance(task, Classification)  # the strategy chose this module for one
        self.prompts = LabelPrompts(
            template=strategy.prompt or DEFAULT,
            words=verbalised(task, self.labels),
            tokenizer=context.tokenizer,
            text_length=context.max_length,
            prompt_length=context.model.longest(context.config),
        )
        self.asker: Asker | None = None
        self.asked: list[Prompt] = []
        self.shown: list[list[int]] = []

    def prepare(self) -> Asker:
        """Embed what nearest needs; where the network is by then."""
        rows, k = self.exemplars.rows, self.exemplars.nearest
        neighbours = None
        if k is not None:
            c = self.context
            encoded = self.task.encode(rows, c.tokenizer, c.max_length, self.labels).rows
            pool = embed_rows(self.net, encoded, Neighbours.pooling, self.task.batch_size, c.pad_id)
            labels = torch.tensor([row["labels"] for row in encoded], device=pool.device)
            neighbours = Neighbours(pool, labels, len(self.labels), k)
        scorer = ContinuationScorer(self.net, self.prompts.continuations, self.task.batch_size)
        return Asker(self.net, self.prompts, scorer, rows, neighbours)

    def loss(self, batch: Batch) -> Loss:
        if self.asker is None:
            self.asker = self.prepare()
        shown = self.asker.shown(batch)
        logits, asked = self.asker.logits(self.rows(batch), shown)
        self.shown = [p[prompt.dropped :] for p, prompt in zip(shown, asked, strict=True)]
        self.asked += asked
        return label_loss(logits, batch["labels"])

    def answer(self, batch: Batch, loss: Loss) -> list[Row]:
        """Where each query has examples of its own, the train rows it was shown are told."""
        answers = super().answer(batch, loss)
        if self.exemplars.nearest is None:
            return answers
        indices = self.exemplars.indices
        told = [[indices[p] for p in positions] for positions in self.shown]
        return [{**a, "examples": t} for a, t in zip(answers, told, strict=False)]

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        short = sum(prompt.dropped > 0 for prompt in self.asked)
        cut = sum(prompt.cut for prompt in self.asked)
        if short:
            most = max(prompt.dropped for prompt in self.asked)
            self.context.examples.notes.append(
                f"{short} of {len(self.asked)} prompts lost up to {most} examples to fit the "
                f"{self.prompts.prompt_length} tokens that the model reads"
            )
        if cut:
            self.context.examples.notes.append(
                f"{cut} of {len(self.asked)} texts were longer than {self.prompts.text_length} "
                "tokens, or than what the model reads, and lost their end"
            )

    def facts(self) -> dict[str, Any]:
        return {
            "prompt": self.prompts.template,
            "verbalisations": self.prompts.words,
            "prompt_length": self.prompts.prompt_length,
            "nearest": self.exemplars.nearest,
            "examples": shown(self.exemplars),
            "batch_size": self.task.batch_size,
        }

    def tensors(self) -> dict[str, Tensor]:
        neighbours = self.asker.neighbours if self.asker is not None else None
        if neighbours is None:
            return {}
        return {"examples": neighbours.pool, "labels": neighbours.labels}


@dataclass
class LikelihoodPredictor:
    """The same answers from a run's `model/` folder."""

    asker: Asker
    facts: dict[str, Any]

    def predict(self, texts: Sequence[str]) -> list[Row]:
        """For each text its label and the score of every label."""
        from llmexp.data.batches import pad

        f, tokenizer, device = self.facts, self.asker.prompts.tokenizer, self.asker.net.device
        ids = tokenizer(list(texts), truncation=True, max_length=f["max_length"])["input_ids"]
        parts = []
        for start in range(0, len(texts), f["batch_size"]):
            here = slice(start, start + f["batch_size"])
            encoded = [{"input_ids": row, "index": i} for i, row in enumerate(ids[here])]
            batch = pad(encoded, tokenizer.pad_token_id or 0)
            batch = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor)}
            rows = [{"text": text} for text in texts[here]]
            parts.append(self.asker.logits(rows, self.asker.shown(batch))[0])
        return scored(torch.cat(parts), f["labels"])


def load_predictor(folder: Path, facts: dict[str, Any]) -> LikelihoodPredictor:
    """The predictor that a zero_shot or few_shot run of a decoder exported."""
    from transformers import AutoModelForCausalLM

    from llmexp.predict.predictors import load_base, load_tokenizer

    f, net, tokenizer = facts, load_base(facts, AutoModelForCausalLM), load_tokenizer(folder)
    prompts = LabelPrompts(
        f["prompt"], f["verbalisations"], tokenizer, f["max_length"], f["prompt_length"]
    )
    scorer = ContinuationScorer(net, prompts.continuations, f["batch_size"])
    neighbours = None
    if f["nearest"] is not None:
        kept = {k: v.to(net.device) for k, v in load_tensors(folder).items()}
        neighbours = Neighbours(kept["examples"], kept["labels"], len(f["labels"]), f["nearest"])
    return LikelihoodPredictor(Asker(net, prompts, scorer, f["examples"], neighbours), f)
