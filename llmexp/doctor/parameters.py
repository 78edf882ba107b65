"""Parameters by the part of the network they belong to, and the layers that get an adapter."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from torch import nn

from llmexp.context import Context
from llmexp.jobs.record import count
from llmexp.nets.architecture import blocks, empty_network, linear_paths, unwrapped


def parameters(net: nn.Module) -> list[dict[str, Any]]:
    """Parameters by the part of the network they belong to, trained and in all."""
    place = Places(net)
    rows: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        row = rows.setdefault(place.of(name), {"trained": 0, "total": 0})
        size = count(parameter)
        row["total"] += size
        row["trained"] += size if parameter.requires_grad else 0
    return _merged([{"group": group, **row} for group, row in rows.items()])


class Places:
    """Says of a parameter's name which part it is of: a block, adapters, embeddings, a head ..."""

    def __init__(self, net: Any):
        inner = unwrapped(net)
        stack = blocks(net)
        self.path = next(n for n, m in inner.named_modules() if m is stack)
        self.prefix = "base_model.model." if inner is not net else ""
        self.adapters = str(getattr(getattr(net, "base_model", None), "prefix", "")) or None

    def of(self, name: str) -> str:
        name = name.removeprefix(self.prefix)
        kind = "adapters of block" if self.adapters and self.adapters in name else "block"
        if name.startswith(f"{self.path}."):
            return f"{kind} {name.removeprefix(f'{self.path}.').split('.')[0]}"
        parents, parts = self.path.split("."), name.split(".")
        depth = next((i for i, (a, b) in enumerate(zip(parents, parts, strict=False)) if a != b), 0)
        place = ".".join(parts[: min(depth + 1, len(parts) - 1)])
        return place if kind == "block" else f"adapters of {place}"


def _merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks that are alike in one row: `blocks 0-5`."""

    def alike(row: dict[str, Any]) -> tuple[str, bool, bool]:
        kind, _, number = row["group"].rpartition(" ")
        is_block = number.isdigit()
        return (kind if is_block else row["group"], row["trained"] > 0, is_block)

    ordered = sorted(rows, key=lambda row: row["group"].startswith("adapters"))
    merged = []
    for (kind, _, is_block), run in groupby(ordered, key=alike):
        same = list(run)
        numbers = [row["group"].rpartition(" ")[2] for row in same]
        several = is_block and len(same) > 1
        group = f"{kind}s {numbers[0]}-{numbers[-1]}" if several else same[0]["group"]
        total, trained = (sum(row[name] for row in same) for name in ("total", "trained"))
        merged.append({"group": group, "trained": trained, "total": total})
    return merged


def adapted_layers(context: Context) -> dict[str, Any] | None:
    """Which linear layers of the backbone get an adapter and which do not, by their names."""
    targets = set(context.strategy.targets(context))
    if not targets:
        return None
    paths = linear_paths(empty_network(context))
    ends = sorted({path.rpartition(".")[2] for path in paths})
    names = {end: [p in targets for p in paths if p.rpartition(".")[2] == end] for end in ends}
    return {
        "layers": len(paths),
        "adapted": len(targets),
        "by_name": {name: [sum(found), len(found)] for name, found in names.items()},
    }
