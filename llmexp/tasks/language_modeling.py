"""Plain text; every token is predicted from those before it."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from llmexp.config import spec
from llmexp.tasks.base import IGNORE, Batch, Encoded, Examples, Row
from llmexp.tasks.decoder import DecoderTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A sample continues this many tokens of a test document.
PROMPT = 32


@spec
class LanguageModeling(DecoderTask):
    """Rows of `text`, joined with EOS between and cut into blocks of `max_length` tokens.

    With `packing` each document is cut alone, and sees nothing of another.
    """

    kind: ClassVar[str] = "language_modeling"
    in_blocks: ClassVar[bool] = True
    predictor: ClassVar[str] = "language_model"

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        return Stream(tokenizer).ending

    def specimens(self, split: str) -> list[Row]:
        from llmexp.data.specimens import documents

        return documents(self, split)

    def canonical(self, raw: Row, where: str) -> Row:
        from llmexp.data.formats import text_row

        return text_row(raw, self, where)

    def encode(
        self,
        rows: list[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        labels: list[str],
    ) -> Encoded:
        """Blocks that learn every token of every document, and its EOS, exactly once."""
        stream = Stream(tokenizer)
        found: list[Row] = []
        for i, row in enumerate(rows):
            stream.append(row["text"], i)
            if self.packing or i == len(rows) - 1:
                found += stream.blocks(max_length)
                stream.clear()
        return Encoded(found, {"documents": len(rows)})

    def collate(self, rows: list[Row], pad_id: int) -> Batch:
        import torch

        batch = DecoderTask.collate(self, rows, pad_id)
        # A filler supervises nothing, so it spells nothing.
        sizes = [row["text_bytes"] if row["index"] >= 0 else 0 for row in rows]
        batch["text_bytes"] = torch.tensor(sizes)
        return batch

    def baseline(self, examples: Examples) -> dict[str, float]:
        """bits_per_byte of the train text's byte frequencies, with one of each byte added."""
        counts = Counter(b for row in examples.train for b in row["text"].encode())
        total = sum(counts.values()) + 256
        test = Counter(b for row in examples.test for b in row["text"].encode())
        bits = -sum(n * math.log2((counts[b] + 1) / total) for b, n in test.items())
        return {"test/bits_per_byte": bits / sum(test.values())}

    def written(self, net: Any, rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
        """How a network goes on from the beginning of each document."""
        longest = self.longest(net, tokenizer)
        new = min(self.generation.max_new_tokens, longest // 2)
        stream = Stream(tokenizer)
        pieces = []
        for row in rows:
            # Enough characters for the tokens that are shown, however long they are.
            ids = stream.tokens(row["text"][: 32 * (PROMPT + new)])
            at = min(PROMPT, longest - new - 1, len(ids) // 2)
            pieces.append((ids[:at], ids[at : at + new]))
        prompts = [[*stream.opening, *start] for start, _ in pieces]
        texts = self.generation.generate(
            net, prompts, tokenizer, stream.ending, longest, self.batch_size
        )
        return [
            {
                "input": tokenizer.decode(start),
                "reference": tokenizer.decode(rest),
                "prediction": text,
            }
            for (start, rest), text in zip(pieces, texts, strict=True)
        ]


class Stream:
    """Documents as one stream of tokens, each with what it must be predicted as and its bytes.

    A document is [opening] tokens [EOS]; the opening is the tokenizer's BOS, else the EOS of the
    document before, and is never predicted itself unless it is that EOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        from llmexp.data.templates import adds_bos

        self.tokenizer = tokenizer
        eos = tokenizer.eos_token_id
        self.ending = [] if eos is None else [int(eos)]
        self.bos = [int(tokenizer.bos_token_id)] if adds_bos(tokenizer) else []
        self.opening = self.bos or self.ending
        self.clear()

    def clear(self) -> None:
        """Begin again, as if no document had come before."""
        self.ids: list[int] = []
        self.targets: list[int] = []
        self.bytes: list[int] = []
        self.documents: list[int] = []

    def tokens(self, text: str) -> list[int]:
        # verbose=False: a document longer than the model is what blocks are for.
        encoded = self.tokenizer(text, add_special_tokens=False, verbose=False)
        return list(encoded["input_ids"])

    def append(self, text: str, document: int) -> None:
        """Add a document. Its bytes are dealt out evenly over its tokens; their sum is exact."""
        new = self.tokens(text)
        size, n = len(text.encode()), len(new)
        shares = [size * (k + 1) // n - size * k // n for k in range(n)]
        start = self.bos if self.ids else self.opening
        self.ids += start + new + self.ending
        self.targets += [IGNORE] * len(start) + new + self.ending
        self.bytes += [0] * len(start) + shares + [0] * len(self.ending)
        self.documents += [document] * (len(start) + n + len(self.ending))

    def blocks(self, length: int) -> list[Row]:
        """Inputs of at most `length` tokens with the token that follows each; the last is short."""
        starts = range(0, len(self.ids) - 1, length)
        return [
            {
                "input_ids": self.ids[a : min(a + length, len(self.ids) - 1)],
                "labels": self.targets[a + 1 : a + 1 + length],
                "text_bytes": sum(self.bytes[a + 1 : a + 1 + length]),
                "index": self.documents[a],
            }
            for a in starts
        ]
