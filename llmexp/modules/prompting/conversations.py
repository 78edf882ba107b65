"""Instruction rows that begin with solved examples as earlier turns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmexp.data.templates import Template
from llmexp.modules.prompting.embedding import Neighbours, embed_rows
from llmexp.tasks.base import Row

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from llmexp.tasks.instruction import Instruction


@dataclass
class Conversations:
    """Puts examples before a row's own turns, as many as leave room for the answer."""

    task: Instruction
    tokenizer: PreTrainedTokenizerBase
    examples: list[Row]
    neighbours: Neighbours | None
    longest: int
    """What the model reads, in tokens."""
    counts: Counter[str] = field(default_factory=Counter)
    """How many rows were given examples, and how many lost some of them."""

    def opened(self, net: Any, rows: list[Row]) -> list[Row]:
        """The same rows with their examples first; of those that do not fit, the first go.

        `shown` tells their positions among the examples.
        """
        if not self.examples or not rows:
            return rows
        chosen = [list(range(len(self.examples)))] * len(rows)
        if self.neighbours is not None:
            query = requests(net, rows, self.tokenizer, self.longest, self.task.batch_size)
            chosen = self.neighbours.positions(query)
        return [self._opened(row, shown) for row, shown in zip(rows, chosen, strict=True)]

    def _opened(self, row: Row, shown: list[int]) -> Row:
        template = Template(self.tokenizer)
        head = [turn for turn in row["messages"][:1] if turn["role"] == "system"]
        own = row["messages"][len(head) :]
        for start in range(len(shown) + 1):
            turns = [turn for p in shown[start:] for turn in self.examples[p]["messages"]]
            messages = [*head, *(t for t in turns if t["role"] != "system"), *own]
            if self._fits(messages, template):
                break
        self.counts["rows"] += 1
        self.counts["short"] += start > 0
        return {**row, "messages": messages, "shown": shown[start:]}

    def _fits(self, messages: list[Row], template: Template) -> bool:
        """Whether prompt and answer, the reference or one that is written, are short enough."""
        prompt = len(template.prompt_ids(messages[:-1]))
        answer = len(self.tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"])
        new = min(self.task.generation.max_new_tokens, max(1, self.longest // 2))
        # Two tokens for what a template writes between an answer and its end.
        return prompt + max(answer + 2, new) <= self.longest


def requests(
    net: Any, rows: list[Row], tokenizer: PreTrainedTokenizerBase, longest: int, batch_size: int
) -> Tensor:
    """The last request of each row as a unit vector: [B, H]."""
    texts = [next(t["content"] for t in reversed(r["messages"][:-1])) for r in rows]
    ids = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    encoded = [{"input_ids": row, "index": i} for i, row in enumerate(ids)]
    pad_id = tokenizer.pad_token_id or 0
    return embed_rows(net, encoded, Neighbours.pooling, batch_size, pad_id)
