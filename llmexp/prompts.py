"""Prompts that ask a language model for a label: a header, solved examples, the query."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmexp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmexp.tasks.base import Row
    from llmexp.tasks.classification import Classification

PLACEHOLDERS = ("text", "labels")
DEFAULT = "Classify the text as one of: {labels}.\n\nText: {text}\nLabel:"


def template_complaints(template: str) -> list[str]:
    """What is wrong with a prompt template, each as a sentence's end."""
    named = re.findall(r"\{(\w+)\}", template)
    unknown = [name for name in named if name not in PLACEHOLDERS]
    if unknown:
        return [f"has no placeholder {{{unknown[0]}}}; {did_you_mean(unknown[0], PLACEHOLDERS)}"]
    if named.count("text") != 1:
        return ["must hold {text} exactly once; null takes the default"]
    return []


def verbalised(task: Classification, labels: list[str]) -> dict[str, str]:
    """Each class in words: its description, else its name with underscores as spaces."""
    return {name: task.labels.get(name, name.replace("_", " ")) for name in labels}


def full_text(row: Row) -> str:
    """A row's text, a pair as two lines."""
    return f"{row['text']}\n{row['text_pair']}" if "text_pair" in row else row["text"]


@dataclass(frozen=True)
class Prompt:
    """Token ids that end right before the label, and what had to go to make them fit."""

    ids: list[int]
    dropped: int
    """Examples left out."""
    cut: bool
    """Whether the query's text lost its end."""


@dataclass(frozen=True)
class LabelPrompts:
    """Builds prompts of a template.

    Paragraphs before the one with {text} are said once; the paragraph with {text} is said for
    each example, with its label, and last for the query, without.
    """

    template: str
    words: dict[str, str]
    """Label -> its verbalisation, in label order."""
    tokenizer: PreTrainedTokenizerBase
    text_length: int
    """A text longer than this many tokens is cut at its end."""
    prompt_length: int
    """What the model reads at most, prompt and label together."""

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """(header, before the text, after the text)."""
        template = self.template.replace("{labels}", ", ".join(self.words.values()))
        before, _, after = template.partition("{text}")
        header, gap, opening = before.rpartition("\n\n")
        # Labels begin with a space; two would be other tokens.
        return header + gap, opening, after.rstrip(" ")

    @cached_property
    def continuations(self) -> list[list[int]]:
        """Token ids of each label as they follow the prompt's end, in label order."""
        anchor = self.parts[2] or ":"
        start = self.encode(anchor)
        found = []
        for word in self.words.values():
            ids = self.encode(f"{anchor} {word}")
            if ids[: len(start)] == start:
                found.append(ids[len(start) :])
            else:  # the tokenizer merges across the border
                found.append(self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"])
        return found

    def encode(self, text: str) -> list[int]:
        """Ids with the special tokens that open a text, without those that close it."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        closing = {self.tokenizer.eos_token_id, self.tokenizer.sep_token_id}
        while ids and ids[-1] in closing:
            ids.pop()
        return ids

    def build(self, query: Row, examples: list[Row]) -> Prompt:
        """The query's prompt; examples go from the front, one by one, until it fits."""
        header, _, _ = self.parts
        text, cut = self.shortened(full_text(query), self.text_length)
        room = self.prompt_length - max(map(len, self.continuations))
        shown = [self._solved(row) for row in examples]
        used = len(self.encode(header + self._open(text))) + sum(n for _, n in shown)
        while shown and used > room:
            used -= shown.pop(0)[1]
        ids = self._joined(header, shown, text)
        while len(ids) > room:
            if shown:
                shown.pop(0)
            else:
                text, cut = self._without(text, len(ids) - room), True
            ids = self._joined(header, shown, text)
        return Prompt(ids, len(examples) - len(shown), cut)

    def shortened(self, text: str, longest: int) -> tuple[str, bool]:
        """At most that many tokens of a text, and whether it lost any."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= longest:
            return text, False
        kept: Any = self.tokenizer.decode(ids[:longest])
        return kept.rstrip("\ufffd"), True

    def _without(self, text: str, tokens: int) -> str:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokens >= len(ids):
            raise UserError(
                f"strategy.prompt: without any text it fills the {self.prompt_length} tokens that "
                "the model reads; a shorter prompt, or shorter data.labels, would work"
            )
        return self.shortened(text, len(ids) - tokens)[0]

    def _open(self, text: str) -> str:
        _, opening, after = self.parts
        return f"{opening}{text}{after}"

    def _solved(self, row: Row) -> tuple[str, int]:
        text, _ = self.shortened(full_text(row), self.text_length)
        block = f"{self._open(text)} {self.words[row['label']]}\n\n"
        return block, len(self.tokenizer(block, add_special_tokens=False)["input_ids"])

    def _joined(self, header: str, shown: list[tuple[str, int]], text: str) -> list[int]:
        return self.encode(header + "".join(block for block, _ in shown) + self._open(text))
