"""Batches cut out of a stretch of a stream, by the rules that cut those of rows in memory."""

from __future__ import annotations

from typing import Protocol

import torch

from llmexp.data.batches import POOL, update_order
from llmexp.data.token_budget import Batches, cut_by_tokens, dealt, falling, refuse_longer


class Plan(Protocol):
    """How a stretch becomes batches; positions are those in it, a negative one is a filler."""

    def enough(self, count: int, total: int) -> bool:
        """Whether a stretch of so many rows, so long together, can be cut."""

    def cut(self, sizes: list[int], seed: int, last: bool) -> tuple[Batches, list[int]]:
        """This rank's batches, and what waits for the next stretch; the last leaves nothing."""


class RowPlan:
    """`batch_size` rows a batch; an update is `batch_size * world * accumulate` rows."""

    def __init__(self, batch_size: int, accumulate: int, rank: int, world: int):
        self.micro = batch_size * world
        self.rows = self.micro * accumulate
        self.rank, self.world = rank, world

    def enough(self, count: int, total: int) -> bool:
        return count == POOL * self.rows

    def cut(self, sizes: list[int], seed: int, last: bool) -> tuple[Batches, list[int]]:
        batches = [
            update[start : start + self.micro][self.rank :: self.world] or [-1 - update[start]]
            for update in update_order(sizes, self.rows, seed, 0)
            for start in range(0, len(update), self.micro)
        ]
        return batches, []


class BudgetPlan:
    """As many rows as fit into a budget of padded tokens; an update is `accumulate * world`."""

    def __init__(self, budget: int, accumulate: int, rank: int, world: int):
        self.budget, self.size = budget, accumulate * world
        self.rank, self.world = rank, world

    def enough(self, count: int, total: int) -> bool:
        return total >= POOL * self.size * self.budget

    def cut(self, sizes: list[int], seed: int, last: bool) -> tuple[Batches, list[int]]:
        refuse_longer(sizes, self.budget)
        found = cut_by_tokens(falling(list(range(len(sizes))), sizes), sizes, self.budget)
        full = len(found) // self.size * self.size
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(full // self.size, generator=draw).tolist()
        updates = [found[k * self.size : (k + 1) * self.size] for k in order]
        # A shorter update may only end an epoch: there Lightning closes an accumulation window.
        rest = found[full:]
        updates += [rest] if last else []
        mine = [batch for update in updates for batch in dealt(update, self.rank, self.world)]
        return mine, [] if last else [i for batch in rest for i in batch]
