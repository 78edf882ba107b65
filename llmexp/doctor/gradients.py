"""What will train: parameters by group, and one forward and backward that shows where it learns."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from llmexp.config import Cache
from llmexp.context import Context
from llmexp.jobs.record import count
from llmexp.nets.architecture import blocks, empty_network, linear_paths, unwrapped
from llmexp.tasks.base import Row

# Networks above this many parameters are looked at by their shape only, without weights.
LARGEST = {"cpu": 600_000_000, "cuda": 20_000_000_000}
ROWS, CHARACTERS = 4, 400


class Gradients(pl.Callback):
    """The norm of each parameter's gradient right after the backward pass; None where none is."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.norms: dict[str, float | None] = {}
        self.loss: float | None = None

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        for name, parameter in self.net.named_parameters():
            gradient = parameter.grad
            self.norms[name] = None if gradient is None else float(gradient.norm())

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        loss = trainer.callback_metrics.get("train/loss")
        self.loss = None if loss is None else float(loss)


def small(context: Context) -> Context:
    """The same experiment on a few short rows, with no cache."""
    given = context.examples
    train, validation, test = map(_few, (given.train, given.validation, given.test))
    given = replace(given, notes=[], stream=None)
    examples = replace(given, train=train, validation=validation, test=test)
    cache = Cache(enabled=False, dir=tempfile.gettempdir(), max_gb=1.0)
    return replace(context, examples=examples, cache=cache, accumulate=1)


def _few(rows: list[Row]) -> list[Row]:
    ordered = sorted(rows, key=lambda row: len(str(row)))
    start = len(ordered) // 4  # the shortest may say nothing
    return [_cut(row) for row in ordered[start : start + ROWS]]


def _cut(row: Row) -> Row:
    return {k: v[:CHARACTERS] if k in ("text", "text_pair") else v for k, v in row.items()}


def is_large(context: Context) -> bool:
    total = sum(p.numel() for p in empty_network(context).parameters())
    return total > LARGEST["cuda" if torch.cuda.is_available() else "cpu"]


def network(context: Context) -> Any:
    """The network as the run would train it; of a large one its shape alone."""
    strategy = context.strategy
    if is_large(context):
        with torch.device("meta"):
            return strategy.adapt(empty_network(context), context)
    return strategy.adapt(strategy.load(context), context)


def one_step(net: Any, context: Context) -> Gradients:
    """Train one update of a few rows on a network that is then thrown away."""
    found = Gradients(net)
    module = context.strategy.module(net, context)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="auto",
            devices=1,
            max_steps=1,
            limit_train_batches=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
            callbacks=[found],
        )
        trainer.fit(module, datamodule=context.strategy.data(context, net))
    return found


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


def judged(net: nn.Module, found: Gradients, silent: set[str]) -> dict[str, Any]:
    """Which tensors got a gradient, against which should."""
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    moved = {name for name, norm in found.norms.items() if norm}
    missing = sorted(trained - moved - silent)
    return {
        "loss": found.loss,
        "tensors": len(found.norms),
        "trained": len(trained),
        "with_gradient": len(trained & moved),
        "silent_by_design": len((trained & silent) - moved),
        "without_gradient": missing,
        "elsewhere": sorted(moved - trained),
    }


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
