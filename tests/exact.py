"""Updates and scores of an experiment, by the loop as it is or with the widespread mistakes."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from llmexp.context import Context
from llmexp.modules.finetune import FineTune
from llmexp.modules.update import over_ranks
from llmexp.tasks.base import Batch, Loss


class Measured(NamedTuple):
    """What every update was made with, and what the test found."""

    losses: list[float]
    gradients: list[dict[str, Tensor]]
    metrics: dict[str, float]
    answered: list[int]
    """The rows that were answered, in order."""
    norms: list[tuple[float, float]]
    """Of each update's gradient: as a callback sees it before the step, and as it is logged."""
    held_out: dict[str, tuple[int, int]]
    """Of each evaluated split: rows and fillers on all processes together."""


class Gradients(pl.Callback):
    """What each update was made with: after the division, when the optimizer has stepped."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Tensor]] = []
        self.losses: list[float] = []
        self.seen: list[float] = []
        self.norms: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        named = module.named_parameters()
        self.seen.append(length({n: p.grad for n, p in named if p.grad is not None}))

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        def keep(optimizer: Any, args: Any, kwargs: Any) -> None:
            named = module.named_parameters()
            self.updates.append({n: p.grad.clone() for n, p in named if p.grad is not None})
            self.losses.append(float(module.update_loss))
            self.norms.append((self.seen[-1], float(module.update_norm)))

        trainer.optimizers[0].register_step_post_hook(keep)


class MeanOfMeans(FineTune):
    """The widespread mistake: the mean of each micro-batch, divided by whatever Lightning does."""

    def loss(self, batch: Batch) -> Loss:
        loss = super().loss(batch)
        one = torch.ones_like(loss.count)
        return loss._replace(total=loss.total / loss.count.clamp(min=1), count=one)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        return super().training_step(batch, batch_index) / self.trainer.accumulate_grad_batches

    def on_after_backward(self) -> None:
        if not self.trainer.fit_loop._should_accumulate():
            _, self.update_loss = self.window.close()


def mean_of_means(module: Any) -> None:
    module.__class__ = type("Mistaken", (MeanOfMeans, type(module)), {})


def repeat_rows(data: Any) -> None:
    """Let fillers count as the rows they are made of, as a DistributedSampler does."""
    right = data._evaluation

    def repeated(name: str) -> Any:
        loader = right(name)
        sampler = batches_of(loader)
        sampler.batches = [[i if i >= 0 else -1 - i for i in b] for b in sampler.batches]
        return loader

    data._evaluation = repeated


def batches_of(loader: Any) -> Any:
    """Features come in batches from their sampler, tokens from a batch sampler."""
    return loader.batch_sampler or loader.sampler


def evaluated(data: Any, split: str) -> tuple[int, int]:
    """Rows and fillers of a split, on all processes together."""
    places = [i for batch in batches_of(data._evaluation(split)).batches for i in batch]
    rows, fillers = over_ranks(
        torch.tensor([sum(i >= 0 for i in places), sum(i < 0 for i in places)])
    )
    return int(rows), int(fillers)


def measured(made: Context, wrong: bool = False, **how: Any) -> Measured:
    """What one epoch and a test found; `wrong` makes the widespread mistakes."""
    return carried_out(made, wrong, **how)[2]


def carried_out(
    made: Context, wrong: bool = False, repeated: bool = False, **trainer: Any
) -> tuple[Any, Any, Measured]:
    """One epoch and a test, as a run does them: the module, its data, and what was measured.

    `repeated` makes one mistake, fillers that count; `wrong` makes the mean of means too.
    """
    pl.seed_everything(made.seed, verbose=False)
    net = made.strategy.adapt(made.strategy.load(made), made)
    awaken(net)
    data, module = made.strategy.data(made, net), made.strategy.module(net, made)
    if wrong:
        mean_of_means(module)
    if wrong or repeated:
        repeat_rows(data)
    seen = Gradients()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    runner = pl.Trainer(
        **{"accelerator": "cpu", "max_epochs": 1, **quiet, **trainer},
        accumulate_grad_batches=made.accumulate,
        callbacks=[seen],
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=str(made.folder),
    )
    runner.fit(module, datamodule=data)
    runner.test(module, datamodule=data, verbose=False)
    metrics = {**module.validation_metrics, **module.test_metrics}
    metrics = {name: float(value) for name, value in metrics.items()}
    answered = [answer["index"] for answer in module.answers]
    held_out = {"val": evaluated(data, "validation"), "test": evaluated(data, "test")}
    found = Measured(seen.losses, seen.updates, metrics, answered, seen.norms, held_out)
    return module, data, found


def concatenated(module: Any, data: Any, size: int) -> Measured:
    """The same updates of `size` batches, each as one batch of all its rows by plain autograd."""
    loader, found = data.train_dataloader(), Measured([], [], {}, [], [], {})
    batches = list(batches_of(loader))
    assert len(batches) % size != 0
    for start in range(0, len(batches), size):
        rows = [i for batch in batches[start : start + size] for i in batch]
        whole = loader.dataset[rows] if loader.batch_sampler is None else None
        whole = whole or data.collate("train")([loader.dataset[i] for i in rows])
        module.zero_grad()
        loss = module.loss(whole)
        mean = loss.total / loss.count
        mean.backward()
        named = module.named_parameters()
        found.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})
        found.losses.append(float(mean))
    return found


def awaken(net: Any) -> None:
    """Move adapters away from zero, where half of them would have no gradient."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def length(gradient: dict[str, Tensor]) -> float:
    """The 2-norm of the whole gradient."""
    return sum(float(g.double().square().sum()) for g in gradient.values()) ** 0.5


def norms_apart(one: Measured, reference: Measured) -> float:
    """How far what callbacks and loggers see of a gradient is from the reference's, relatively."""
    lengths = [length(gradient) for gradient in reference.gradients]
    pairs = zip(one.norms, lengths, strict=True)
    return max(abs(norm - right) / right for norms, right in pairs for norm in norms)


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Relative L2 over the whole gradient."""
    assert ours.keys() == theirs.keys()
    return length({n: ours[n] - theirs[n] for n in ours}) / length(theirs)


def apart(one: Measured, other: Measured) -> tuple[float, float]:
    """How far losses and gradients of the two are apart, in the worst update."""
    assert len(one.losses) == len(other.losses) > 1
    loss = max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))
    pairs = zip(one.gradients, other.gradients, strict=True)
    return loss, max(distance(a, b) for a, b in pairs)
