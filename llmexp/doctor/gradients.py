"""What will train: one forward and backward that shows where it learns, and where it must not."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from zlib import crc32

import pytorch_lightning as pl
import torch
from torch import nn

from llmexp.config import Cache, RunConfig
from llmexp.context import Context
from llmexp.nets.architecture import empty_network
from llmexp.tasks.base import Row

# Networks above this many parameters are looked at by their shape only, without weights.
LARGEST = {"cpu": 600_000_000, "cuda": 20_000_000_000}
ROWS, CHARACTERS = 4, 400


class Gradients(pl.Callback):
    """The norm of each parameter's gradient right after the backward pass, None where none is; and
    which tensors the step changed."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.norms: dict[str, float | None] = {}
        self.loss: float | None = None
        self.before: dict[str, int] = {}
        self.changed: set[str] = set()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.before = checksums(self.net)

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        for name, parameter in self.net.named_parameters():
            gradient = parameter.grad
            self.norms[name] = None if gradient is None else float(gradient.norm())

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        self.loss = float(module.update_loss)
        after = checksums(self.net)
        self.changed = {name for name, value in self.before.items() if after[name] != value}


def checksums(net: nn.Module) -> dict[str, int]:
    """Of every parameter and buffer, by its name."""
    tensors = [*net.named_parameters(), *net.named_buffers()]
    return {name: crc32(_bytes(tensor)) for name, tensor in tensors}


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()


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


def place(config: RunConfig) -> dict[str, Any]:
    """The accelerator and the precision of the run, whichever group names them."""
    given = {**config.trainer, **config.hardware}
    return {name: given[name] for name in ("accelerator", "precision") if name in given}


def is_large(context: Context) -> bool:
    total = sum(p.numel() for p in empty_network(context).parameters())
    return total > LARGEST["cuda" if torch.cuda.is_available() else "cpu"]


def network(context: Context) -> tuple[Any, set[str]]:
    """The network as the run would train it, of a large one its shape alone; and the names of what
    it never trains, such as positions that are computed."""
    strategy = context.strategy
    with torch.device("meta") if is_large(context) else nullcontext():
        net = empty_network(context) if is_large(context) else strategy.load(context)
        fixed = {id(p) for p in net.parameters() if not p.requires_grad}
        net = strategy.adapt(net, context)
    return net, {name for name, p in net.named_parameters() if id(p) in fixed}


def one_step(net: Any, context: Context, where: dict[str, Any]) -> Gradients:
    """Train one update of a few rows, `where` the run would, on a network to be thrown away."""
    found = Gradients(net)
    module = context.strategy.module(net, context)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            **where,
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


def judged(net: nn.Module, meant: set[str]) -> dict[str, Any]:
    """Which tensors train, against which are meant to."""
    training = {name for name, p in net.named_parameters() if p.requires_grad}
    return {
        "tensors": sum(1 for _ in net.parameters()),
        "meant": len(meant),
        "trained": len(training),
        "frozen_though_meant": sorted(meant - training),
        "trained_though_not_meant": sorted(training - meant),
    }


def after_a_step(net: nn.Module, meant: set[str], found: Gradients, silent: set[str]) -> Any:
    """Which tensors got a gradient or another value, against which should."""
    moved = {name for name, norm in found.norms.items() if norm}
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    return {
        "loss": found.loss,
        "with_gradient": len(trained & moved),
        "silent_by_design": len((trained & silent) - moved),
        "without_gradient": sorted(trained & meant - moved - silent),
        "elsewhere": sorted(moved - meant),
        "changed_elsewhere": sorted(found.changed - meant - _counters(net, meant)),
    }


def _counters(net: nn.Module, meant: set[str]) -> set[str]:
    """Buffers of modules that are meant to train, which may count or average as they do."""
    owners = {name: f"{name.rpartition('.')[0]}." for name, _ in net.named_buffers()}
    return {name for name, owner in owners.items() if any(m.startswith(owner) for m in meant)}
