"""Texts as unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from llmexp.data.batches import pad
from llmexp.exemplars import nearest
from llmexp.nets.architecture import backbone
from llmexp.nets.pooling import Pooling, pool
from llmexp.tasks.base import Row


@torch.inference_mode()
def embed(net: Any, batch: dict[str, Any], how: Pooling) -> Tensor:
    """Pooled hidden states of length one: [B, H]."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden = backbone(net)(**inputs).last_hidden_state.float()
    return F.normalize(pool(hidden, inputs["attention_mask"], how), dim=-1)


def embed_rows(
    net: Any, encoded: Sequence[Row], how: Pooling, batch_size: int, pad_id: int
) -> Tensor:
    """The same for encoded rows, in their order: [N, H], on the network's device."""
    device = next(net.parameters()).device
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]["input_ids"]))
    parts = []
    for start in range(0, len(order), batch_size):
        batch = pad([encoded[i] for i in order[start : start + batch_size]], pad_id)
        on_device = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor)}
        parts.append(embed(net, on_device, how))
    sorted_rows = torch.cat(parts)
    rows = torch.empty_like(sorted_rows)
    rows[torch.tensor(order, device=device)] = sorted_rows
    return rows


@dataclass
class Neighbours:
    """Train rows as unit vectors [N, H] of class labels [N]; finds those to show for a query."""

    # A causal model's last state knows the whole text, yet mostly says which token comes next.
    pooling: ClassVar[Pooling] = "mean"

    pool: Tensor
    labels: Tensor
    classes: int
    k: int

    def shown(self, net: Any, batch: dict[str, Any]) -> list[list[int]]:
        """For each row of a batch its k nearest rows of each class, the most similar last."""
        return self.positions(embed(net, batch, self.pooling))

    def positions(self, query: Tensor) -> list[list[int]]:
        """The same for unit vectors [B, H]."""
        found = nearest(query, self.pool, self.labels, self.classes, self.k).flatten(1)  # [B, C*k]
        similarity = torch.einsum("bh,bnh->bn", query, self.pool[found])
        return found.gather(1, similarity.argsort(dim=1)).tolist()
