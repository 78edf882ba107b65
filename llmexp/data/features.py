"""Pooled features of every split, computed once for each distinct row and kept between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from llmexp.cache.distinct import Distinct
from llmexp.cache.features import Entry, MemoryOnly, digest, open_cache, size_of
from llmexp.data.batches import EvaluationBatches, UpdateBatches, pad
from llmexp.data.module import TokenData
from llmexp.data.state_key import UNKNOWN, circumstances
from llmexp.data.token_cache import about
from llmexp.modules.memory import halved
from llmexp.nets.freezing import beside_blocks, is_norm
from llmexp.nets.pooling import Pooling, pool
from llmexp.nets.weights import fingerprint
from llmexp.tasks.base import IGNORE, Batch, Row

if TYPE_CHECKING:
    from llmexp.context import Context


@dataclass
class PrefixCost:
    """What computing frozen states cost when it was first done, and how much of it was spared."""

    seconds: float = 0.0
    spared: float = 0.0
    """Of these, the ones an earlier run spent."""
    hit: bool = True
    """All of them."""

    seen: set[str] = field(default_factory=set)
    """Keys of entries; splits with the same rows share one, which costs and is spared once."""

    def add(self, key: str, entry: Entry) -> None:
        if entry.hit and key in self.seen:
            return
        self.seen.add(key)
        self.seconds += entry.seconds
        self.spared += entry.seconds if entry.hit else 0.0
        self.hit = self.hit and entry.hit


class FeatureData(TokenData):
    """Batches of pooled features instead of tokens: `features` [B, H] in float32, all in memory."""

    def __init__(self, context: Context, backbone: Any, pooling: Pooling, batch_size: int):
        super().__init__(context, context.accumulate)
        self.backbone = backbone
        self.pooling = pooling
        self.batch_size = batch_size
        self.features: dict[str, Tensor] = {}
        self.prefix = PrefixCost()

    def setup(self, stage: str) -> None:
        """Tokenise every split and compute its features, or find them computed."""
        super().setup(stage)
        if self.features:
            return
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        weights = backbone_fingerprint(self.backbone)
        self.backbone.to(device)
        for name, encoded in self.encoded.items():
            self.features[name] = self._features(name, encoded.rows, weights)
        # Nothing below reads tokens or the network any more.
        self.backbone.cpu()

    def _features(self, name: str, rows: Sequence[Row], weights: str) -> Tensor:
        distinct = Distinct(rows)
        shape = (len(distinct), self.backbone.config.get_text_config().hidden_size)
        how = circumstances(self.context, self.backbone)
        key = digest(
            {
                "circumstances": how,
                "weights": weights,
                "tokens": distinct.fingerprint(),
                "pooling": self.pooling,
                "dtype": str(self.backbone.dtype),
            }
        )
        cache = open_cache(self.context.cache)
        why = cache.refusal(size_of(shape, torch.float32)) if how is not None else UNKNOWN
        if why is not None:
            self.context.examples.notes.append(f"features are not kept: {why}")
            cache = MemoryOnly()

        def fill(out: Tensor) -> None:
            extract(self.backbone, distinct, self.pooling, self.context.pad_id, out)

        entry = cache.entry(key, shape, torch.float32, fill, **about(self.context, name))
        self.prefix.add(key, entry)
        return entry.states[[distinct.number(row) for row in rows]]

    def lengths(self, name: str) -> list[int]:
        """Features are all alike: nothing to group by."""
        return [1] * len(self.encoded[name].rows)

    def train_dataloader(self) -> DataLoader:
        rank = self._rank()
        size, seed = self.batch_size, self.context.seed
        sampler = UpdateBatches(self.lengths("train"), size, self.accumulate, seed, *rank)
        return self._loader("train", sampler)

    def _evaluation(self, name: str) -> DataLoader:
        sampler = EvaluationBatches(self.lengths(name), self.batch_size, *self._rank())
        return self._loader(name, sampler)

    def _loader(self, name: str, sampler: Sampler[list[int]]) -> DataLoader:
        rows = FeatureRows(self.features[name], self.encoded[name].rows)
        # Whole batches are cut out of a tensor, so there is nothing for a worker to do.
        return self.loader(rows, sampler, sampler=sampler, batch_size=None)


class FeatureRows(Dataset):
    """Batches by lists of positions; a negative position -1 - i is row i as a filler."""

    def __init__(self, features: Tensor, rows: Sequence[Row]):
        self.features = features
        self.labels = torch.tensor([row["labels"] for row in rows])
        self.index = torch.tensor([row["index"] for row in rows])
        self.tokens = torch.tensor([len(row["input_ids"]) for row in rows])

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, positions: list[int]) -> Batch:
        wanted = torch.tensor(positions)
        real = wanted >= 0
        at = torch.where(real, wanted, -1 - wanted)
        return {
            "features": self.features[at],
            "labels": torch.where(real, self.labels[at], IGNORE),
            "index": torch.where(real, self.index[at], -1),
            "tokens": int(self.tokens[at[real]].sum()),
        }


def backbone_fingerprint(net: Any) -> str:
    """A hash of all that the last hidden states may depend on; a pooler is not among them."""
    poolers = [module for module in beside_blocks(net)[1] if not is_norm(module)]
    return fingerprint(net, net.config, without=poolers)


@torch.inference_mode()
def extract(net: Any, distinct: Distinct, pooling: Pooling, pad_id: int, out: Tensor) -> None:
    """Write the pooled features of every distinct row into `out` [rows, H]."""
    net.eval()
    device = net.device

    def compute(numbers: list[int]) -> list[int]:
        batch = pad([distinct.rows[i] for i in numbers], pad_id)
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        hidden = net(input_ids=ids, attention_mask=mask).last_hidden_state
        out[numbers] = pool(hidden, mask, pooling).to(out.device)
        return numbers

    for numbers in distinct.batches(device.type):
        halved(compute, numbers)
