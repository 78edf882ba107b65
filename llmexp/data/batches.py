"""Which rows go into which batch: a pure function of seed, epoch and the update's size.

Rows are grouped by length at the level of one optimizer update, so that the rows of an update are
the same however it is cut into micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from llmexp.tasks.base import IGNORE, Row

# Updates whose rows are sorted by length together; more would make batches less random.
POOL = 16


class TokenRows(Dataset):
    """Encoded rows; a negative position -1 - i is row i as a filler that supervises nothing."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Row:
        if position >= 0:
            return self.rows[position]
        row = self.rows[-1 - position]
        labels = row["labels"]
        ignored = [IGNORE] * len(labels) if isinstance(labels, list) else IGNORE
        return {**row, "labels": ignored, "index": -1}


def update_order(lengths: list[int], rows: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffled updates of `rows` rows each (the last may be shorter), alike in length."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    updates: list[list[int]] = []
    for start in range(0, len(order), POOL * rows):
        pool = sorted(order[start : start + POOL * rows], key=lambda i: -lengths[i])
        updates += [pool[k : k + rows] for k in range(0, len(pool), rows)]
    full = [u for u in updates if len(u) == rows]
    short = [u for u in updates if len(u) < rows]
    shuffled = torch.randperm(len(full), generator=generator).tolist()
    # A short update last: Lightning closes an accumulation window at the end of an epoch.
    return [full[k] for k in shuffled] + short


class EpochBatches(Sampler[list[int]]):
    """Training batches in an order that is a pure function of the epoch; a subclass says which.

    `skip` makes the next iteration begin further on, where an interrupted one ended.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.skipped = 0

    @property
    def sampler(self) -> EpochBatches:
        """Itself: of a batch sampler, Lightning tells only `.sampler` which epoch it is."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Leave out the first `batches` of the next iteration only."""
        self.skipped = batches

    def __iter__(self) -> Iterator[list[int]]:
        # Not before the first batch is asked for: a DataLoader with workers asks twice for an
        # iterator and uses the second.
        skipped, self.skipped = self.skipped, 0
        yield from islice(self.ordered(), skipped, None)

    def ordered(self) -> Iterator[list[int]]:
        """All batches of `self.epoch`."""
        raise NotImplementedError


class UpdateBatches(EpochBatches):
    """Training batches of one rank; every rank gets the same number of batches.

    One update is `batch_size * world * accumulate` rows. A rank that would get no row in a
    micro-batch gets a filler, so that collectives stay in step.
    """

    def __init__(
        self,
        lengths: list[int],
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        super().__init__()
        self.lengths = lengths
        self.micro = batch_size * world
        self.rows_per_update = self.micro * accumulate
        self.seed, self.rank, self.world = seed, rank, world

    def ordered(self) -> Iterator[list[int]]:
        for update in update_order(self.lengths, self.rows_per_update, self.seed, self.epoch):
            for start in range(0, len(update), self.micro):
                mine = update[start : start + self.micro][self.rank :: self.world]
                yield mine or [-1 - update[start]]

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.rows_per_update)
        per_update = self.rows_per_update // self.micro
        return full * per_update + -(-rest // self.micro)


class EvaluationBatches(Sampler[list[int]]):
    """Every row exactly once over all ranks, long rows together, equal batch counts per rank."""

    def __init__(self, lengths: list[int], batch_size: int, rank: int = 0, world: int = 1):
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        step = batch_size * world
        parts = [order[k : k + step] for k in range(0, len(order), step)]
        self.batches = [part[rank::world] or [-1 - part[0]] for part in parts]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def pad(rows: list[Row], pad_id: int) -> dict[str, Any]:
    """Right-padded input_ids and attention_mask [B, T], index [B], and the count of real tokens.

    The mask counts positions, never ids: a pad token that is also EOS hides nothing (TRL #976).
    """
    longest = max(len(row["input_ids"]) for row in rows)
    ids, there = filled([row["input_ids"] for row in rows], pad_id, longest)
    return {
        "input_ids": ids,
        "attention_mask": there.long(),
        "index": torch.tensor([row["index"] for row in rows]),
        # Real tokens, counted here so that the training loop need not ask the device.
        "tokens": sum(len(row["input_ids"]) for row in rows if row["index"] >= 0),
    }


def pad_labels(rows: list[Row], longest: int) -> Tensor:
    """Right-padded token labels [B, T]."""
    return filled([row["labels"] for row in rows], IGNORE, longest)[0]


def filled(lists: list[list[int]], value: int, longest: int) -> tuple[Tensor, Tensor]:
    """Lists of numbers, each followed by `value` [B, T], and where they stand."""
    flat: list[int] = []
    for one in lists:
        flat.extend(one)
        flat.extend([value] * (longest - len(one)))
    # torch.tensor asks every number what it is: three times as long.
    found = torch.from_numpy(np.array(flat, dtype=np.int64)).view(len(lists), longest)
    lengths = torch.tensor([len(one) for one in lists])
    return found, torch.arange(longest) < lengths[:, None]


def pad_positions(rows: list[Row], longest: int) -> Tensor:
    """Positions [B, T] that begin again with each document; padding is a document of its own."""
    positions = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row["position_ids"])
        positions[i, :n] = torch.tensor(row["position_ids"])
        positions[i, n:] = torch.arange(longest - n)
    return positions
