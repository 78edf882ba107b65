"""Batches of as many rows as fit into a number of padded tokens, instead of a number of rows.

An update is `accumulate * world` such batches, one after the other in the epoch's order: the same
rows on one process that accumulates two as on two processes that accumulate none.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from llmexp.data.batches import POOL, EpochBatches
from llmexp.errors import UserError

Batches = list[list[int]]


def cut_by_tokens(order: list[int], lengths: list[int], budget: int) -> Batches:
    """Stretches of `order`, longest rows first, whose rows times longest row are within budget."""
    batches: Batches = []
    for i in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def falling(rows: list[int], lengths: list[int]) -> list[int]:
    return sorted(rows, key=lambda i: -lengths[i])


def refuse_longer(lengths: list[int], budget: int) -> None:
    """A row that alone is more than a batch may hold is one sentence."""
    if max(lengths) > budget:
        raise UserError(
            f"data.tokens_per_batch: a row has {max(lengths)} tokens and a batch only "
            f"{budget}; use data.tokens_per_batch={max(lengths)} or a smaller data.max_length"
        )


class TokenBudget:
    """The batches of every epoch: rows of like length, and always the same number of batches."""

    def __init__(self, lengths: list[int], budget: int, seed: int = 0):
        refuse_longer(lengths, budget)
        self.lengths, self.budget, self.seed = lengths, budget, seed
        # Sorting all rows gives the fewest batches; a pool of them may leave one batch unfilled.
        fewest = len(cut_by_tokens(falling(list(range(len(lengths))), lengths), lengths, budget))
        self.pools = -(-fewest // POOL)
        self.count = min(len(lengths), fewest + self.pools)

    def batches(self, epoch: int) -> Batches:
        """Exactly `count` batches, so that a schedule knows its steps; shuffled by seed and epoch.

        Rows are sorted by length within random pools; where that makes too many batches, within
        fewer and larger ones. Where it makes too few, the batches with most rows are halved.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        pools = self.pools
        found = self._pooled(order, pools)
        while len(found) > self.count:
            pools = max(1, pools // 2)
            found = self._pooled(order, pools)
        while len(found) < self.count:
            k = max(range(len(found)), key=lambda k: len(found[k]))
            half = len(found[k]) // 2
            found[k : k + 1] = [found[k][:half], found[k][half:]]
        return found

    def updates(self, epoch: int, size: int) -> list[Batches]:
        """`size` consecutive batches each, shuffled; a shorter update comes last."""
        batches = self.batches(epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        full = len(batches) // size
        order = torch.randperm(full, generator=generator).tolist()
        # Lightning closes an accumulation window at the end of an epoch.
        starts = [k * size for k in order] + [full * size]
        return [batches[s : s + size] for s in starts if s < len(batches)]

    def _pooled(self, order: list[int], pools: int) -> Batches:
        step = -(-len(order) // pools)
        return [
            batch
            for start in range(0, len(order), step)
            for batch in cut_by_tokens(
                falling(order[start : start + step], self.lengths), self.lengths, self.budget
            )
        ]


class BudgetUpdateBatches(EpochBatches):
    """Training batches of one rank; every rank gets the same number of batches.

    A rank that would get none in a micro-batch gets a filler, so that collectives stay in step.
    """

    def __init__(
        self,
        lengths: list[int],
        budget: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        super().__init__()
        self.plan = TokenBudget(lengths, budget, seed)
        self.size, self.rank, self.world = accumulate * world, rank, world

    def ordered(self) -> Iterator[list[int]]:
        for update in self.plan.updates(self.epoch, self.size):
            yield from dealt(update, self.rank, self.world)

    def __len__(self) -> int:
        full, rest = divmod(self.plan.count, self.size)
        return full * (self.size // self.world) + -(-rest // self.world)


class BudgetEvaluationBatches(Sampler[list[int]]):
    """Every row exactly once over all ranks, long rows together, equal batch counts per rank."""

    def __init__(self, lengths: list[int], budget: int, rank: int = 0, world: int = 1):
        # Evaluation needs no gradients: a row longer than the budget is a batch of its own.
        order = falling(list(range(len(lengths))), lengths)
        self.batches = list(dealt(cut_by_tokens(order, lengths, budget), rank, world))

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def dealt(batches: Batches, rank: int, world: int) -> Iterator[list[int]]:
    """This rank's share, in turn; where the last round has none for it, one row as a filler."""
    for start in range(0, len(batches), world):
        mine = start + rank
        # The last row is the shortest: a filler costs least.
        yield batches[mine] if mine < len(batches) else [-1 - batches[-1][-1]]
