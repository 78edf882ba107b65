"""Decoders, instruction and plain text: the pretrained model's loss, and what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmexp.exemplars import Exemplars
from llmexp.modules.prompting.base import Asked, load_tensors, shown
from llmexp.modules.prompting.conversations import Conversations, requests
from llmexp.modules.prompting.embedding import Neighbours
from llmexp.predict import predictors
from llmexp.tasks.base import IGNORE, Batch, Loss, Row
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling

if TYPE_CHECKING:
    from llmexp.context import Context

# What `llmexp.json` may call a writer -> its task, and how that asks a network.
WRITERS: dict[str, tuple[Any, Any]] = {
    Instruction.predictor: (Instruction, predictors.answers),
    LanguageModeling.predictor: (LanguageModeling, predictors.continuations),
}


class Generation(Asked):
    """The loss of the reference text, and the text that the network writes itself."""

    predictor = "generation"

    def loss(self, batch: Batch) -> Loss:
        return self.task.loss(self.net, batch)

    def facts(self) -> dict[str, Any]:
        return {"writer": self.task.predictor}


class ShownGeneration(Generation):
    """Instruction with examples as earlier turns; the loss counts the last answer alone."""

    def __init__(self, net: nn.Module, context: Context, exemplars: Exemplars):
        super().__init__(net, context, exemplars)
        task = context.task
        assert isinstance(task, Instruction)  # the strategy chose this module for one
        self.scored_task = replace(task, train_on="last_answer")
        self.longest = context.model.longest(context.config)
        self.conversations: Conversations | None = None

    def prepare(self) -> Conversations:
        """Embed what nearest needs; where the network is by then."""
        c, k = self.context, self.exemplars.nearest
        assert isinstance(c.task, Instruction)
        rows, neighbours = self.exemplars.rows, None
        if k is not None:
            pool = requests(self.net, rows, c.tokenizer, self.longest, c.task.batch_size)
            one_class = torch.zeros(len(rows), dtype=torch.long, device=pool.device)
            neighbours = Neighbours(pool, one_class, 1, k)
        return Conversations(c.task, c.tokenizer, rows, neighbours, self.longest)

    def on_validation_start(self) -> None:
        self._show("validation")

    def on_test_start(self) -> None:
        self._show("test")

    def _show(self, split: str) -> None:
        """From here on the rows of a split begin with their examples."""
        if self.conversations is None:
            self.conversations = self.prepare()
        examples = self.context.examples
        rows: Any = self.conversations.opened(self.net, getattr(examples, split))
        self.context = replace(self.context, examples=replace(examples, **{split: rows}))

    def loss(self, batch: Batch) -> Loss:
        rows = self.rows(batch)
        indices = batch["index"].tolist()
        encoded = [self._encoded(row, i) for row, i in zip(rows, indices, strict=True)]
        made = self.task.collate(encoded, self.context.pad_id)
        on_device = {k: v.to(self.device) for k, v in made.items() if isinstance(v, Tensor)}
        return self.task.loss(self.net, on_device)

    def _encoded(self, row: Row, index: int) -> Row:
        """A row's tokens; one that no example fits before is cut as without examples."""
        c = self.context
        length = self.longest if row["shown"] else c.max_length
        encoded = self.scored_task.encode([row], c.tokenizer, length, [])
        ignored = {"labels": [IGNORE] * len(encoded.rows[0]["labels"])} if index < 0 else {}
        return {**encoded.rows[0], "index": index, **ignored}

    def written(self) -> list[Row]:
        """Each answer tells the train rows that it was shown."""
        test, indices = self.context.examples.test, self.exemplars.indices
        return [
            {**answer, "examples": [indices[p] for p in test[answer["index"]]["shown"]]}
            for answer in super().written()
        ]

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        assert self.conversations is not None  # made when the test began
        counts = self.conversations.counts
        if counts["short"]:
            self.context.examples.notes.append(
                f"{counts['short']} of {counts['rows']} prompts lost examples to fit the "
                f"{self.longest} tokens that the model reads"
            )

    def facts(self) -> dict[str, Any]:
        return super().facts() | {
            "examples": shown(self.exemplars),
            "nearest": self.exemplars.nearest,
            "prompt_length": self.longest,
        }

    def tensors(self) -> dict[str, Tensor]:
        neighbours = self.conversations.neighbours if self.conversations is not None else None
        return {} if neighbours is None else {"examples": neighbours.pool}


@dataclass
class ShownAnswers:
    """The answers of a network that is shown examples first."""

    conversations: Conversations
    net: Any

    def predict(self, texts: Sequence[str]) -> list[Row]:
        """For each request the answer that the network writes."""
        c = self.conversations
        opening = [] if c.task.system is None else [{"role": "system", "content": c.task.system}]
        ending = {"role": "assistant", "content": ""}
        asked = [[*opening, {"role": "user", "content": text}, ending] for text in texts]
        rows = c.opened(self.net, [{"messages": messages} for messages in asked])
        written = c.task.written(self.net, rows, c.tokenizer)
        return [{"prediction": row["prediction"]} for row in written]


def load_predictor(folder: Path, facts: dict[str, Any]) -> Any:
    """What a zero_shot or few_shot run exported: the base model, and what it is shown."""
    from transformers import AutoModelForCausalLM

    net = predictors.load_base(facts, AutoModelForCausalLM)
    tokenizer = predictors.load_tokenizer(folder)
    if "examples" not in facts:
        task_class, write = WRITERS[facts["writer"]]
        task = task_class(train="", **facts["data"])
        return predictors.Writer(net, tokenizer, task, write)
    task = Instruction(train="", **facts["data"])
    neighbours = None
    if facts["nearest"] is not None:
        pool = load_tensors(folder)["examples"].to(net.device)
        one_class = torch.zeros(len(pool), dtype=torch.long, device=pool.device)
        neighbours = Neighbours(pool, one_class, 1, facts["nearest"])
    examples, longest = facts["examples"], facts["prompt_length"]
    return ShownAnswers(Conversations(task, tokenizer, examples, neighbours, longest), net)
