"""Rows as token ids, batches of like length, and how a trained network is scored: one home."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from work import Work


@dataclass(frozen=True)
class Rows:
    """Token ids of each row with its class, or with how many of them are the prompt's."""

    ids: list[list[int]]
    about: list[int]
    classes: bool

    @classmethod
    def of(cls, work: Work, split: str, tokenizer: Any) -> Rows:
        rows = work.rows(split)
        classes = work.task == "classification"
        if classes:
            names = labels(work)
            texts = [row["text"] for row in rows]
            ids = tokenizer(texts, truncation=True, max_length=work.max_length)["input_ids"]
            return cls(ids, [names.index(row["label"]) for row in rows], classes)
        prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
        answers = tokenizer([row["completion"] for row in rows], add_special_tokens=False)
        pairs = zip(prompts, answers["input_ids"], strict=True)
        ids = [[*a, *b, tokenizer.eos_token_id][: work.max_length] for a, b in pairs]
        return cls(ids, [len(prompt) for prompt in prompts], classes)

    def tokens(self) -> int:
        return sum(map(len, self.ids))

    def batches(self, size: int, draw: random.Random) -> list[list[int]]:
        """Batches of rows of like length, in random order."""
        order = sorted(range(len(self.ids)), key=lambda i: (len(self.ids[i]), draw.random()))
        found = [order[i : i + size] for i in range(0, len(order), size)]
        draw.shuffle(found)
        return found

    def padded(self, batch: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Ids and mask [B, T], and of each row the class or the prompt's length [B]."""
        rows = [self.ids[i] for i in batch]
        lengths = torch.tensor([len(ids) for ids in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.tensor([i for one in rows for i in one])
        about = torch.tensor([self.about[i] for i in batch])
        return {"input_ids": ids, "attention_mask": mask.long()}, about

    def loss(self, net: Any, batch: list[int]) -> tuple[Tensor, Tensor, int]:
        """The mean loss, how many rows are right, and over how many positions the mean goes."""
        inputs, about = self.padded(batch)
        if self.classes:
            logits = net(**inputs).logits
            right = (logits.argmax(-1) == about).sum()
            return F.cross_entropy(logits, about), right, len(batch)
        mask = inputs["attention_mask"].bool()
        asked = (mask & (torch.arange(mask.shape[1]) >= about[:, None]))[:, 1:]
        logits = net(**inputs, use_cache=False).logits[:, :-1][asked]
        truth = inputs["input_ids"][:, 1:][asked]
        return F.cross_entropy(logits.float(), truth), torch.tensor(0), len(truth)


def labels(work: Work) -> list[str]:
    return sorted({row["label"] for row in work.rows("train")})


@torch.no_grad()
def scored(net: Any, work: Work, tokenizer: Any) -> dict[str, float]:
    """Mean loss on the test rows over classes or answer tokens; of classes also the accuracy.

    In the mode it was trained in, since nothing drops out: in eval mode bitsandbytes 0.50 packs
    4-bit weights anew for a CPU and fails where a width is no multiple of 64.
    """
    rows = Rows.of(work, "test", tokenizer)
    found = [rows.loss(net, batch) for batch in rows.batches(32, random.Random(0))]
    count = sum(n for *_, n in found)
    scores = {"loss": sum(float(loss) * n for loss, _, n in found) / count}
    if rows.classes:
        scores["accuracy"] = sum(int(right) for _, right, _ in found) / count
    return scores
