"""The gradient of an update is that of its mean over tokens, however the update was cut up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from llmexp.context import Context
from llmexp.data.module import TokenData
from llmexp.modules.finetune import FineTune
from llmexp.strategies.base import Strategy
from llmexp.strategies.from_scratch import FromScratch
from llmexp.strategies.full_finetune import FullFinetune
from llmexp.tasks.base import Batch, Examples, Loss
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from tests import nets, tiny

WORDS = tiny.TEXTS[0].split()
STRATEGIES = {
    "full_finetune": FullFinetune(),
    "lora": nets.lora(),
    "from_scratch": FromScratch(),
}


def ragged(i: int) -> str:
    """Texts of 1 to 15 words."""
    return " ".join(WORDS[: 1 + (7 * i) % 15])


def posed(task: str, rows: int) -> tuple[Any, list[dict[str, Any]], list[str]]:
    if task == "classification":
        labels = ["bad", "good"]
        made = [{"text": ragged(i), "label": labels[i % 2]} for i in range(rows)]
        return Classification(train="made.jsonl"), made, labels
    if task == "instruction":
        chat = [
            [
                {"role": "user", "content": ragged(i + 3)},
                {"role": "assistant", "content": ragged(i)},
            ]
            for i in range(rows)
        ]
        made = [{"messages": turns} for turns in chat]
        return Instruction(train="made.jsonl", template="plain"), made, []
    text = " ".join(ragged(i) for i in range(rows * 2))
    return LanguageModeling(train="made.txt"), [{"text": text}], []


def context(
    folder: Path, task: str, strategy: Strategy, *, rows: int, batch_size: int, accumulate: int
) -> Context:
    spec, made, labels = posed(task, rows)
    spec = replace(spec, batch_size=batch_size)
    net = folder / "net"
    if not net.exists():
        (tiny.bert if task == "classification" else tiny.llama)(net)
    examples = Examples(train=made, validation=made, test=made, labels=labels)
    known = nets.context(net, strategy, (spec, examples))
    # Short blocks, so that there are some.
    length = 24 if task == "language_modeling" else 200
    return replace(known, accumulate=accumulate, max_length=length)


class Gradients(pl.Callback):
    """What each update was made with: after the division, when the optimizer has stepped."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        def keep(optimizer: Any, args: Any, kwargs: Any) -> None:
            named = module.named_parameters()
            self.updates.append({n: p.grad.clone() for n, p in named if p.grad is not None})
            self.losses.append(float(trainer.callback_metrics["train/loss"]))

        trainer.optimizers[0].register_step_post_hook(keep)


class MeanOfMeans(FineTune):
    """The widespread mistake: every micro-batch counts alike, whatever it holds."""

    def loss(self, batch: Batch) -> Loss:
        loss = super().loss(batch)
        return loss._replace(total=loss.total / loss.count, count=torch.ones_like(loss.count))


def trained(made: Context, module: type[FineTune] = FineTune, epochs: int = 1) -> Any:
    """One epoch in fp32 with a zero learning rate, so that every update starts from one point."""
    pl.seed_everything(made.seed, verbose=False)
    net = made.strategy.adapt(made.strategy.load(made), made)
    loop, seen = module(net, made), Gradients()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=made.accumulate,
        callbacks=[seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(loop, datamodule=TokenData(made, made.accumulate))
    return loop, seen


def still(made: Context) -> Context:
    return replace(made, optim=replace(made.optim, learning_rate=0.0))


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Relative L2 over the whole gradient."""
    assert ours.keys() == theirs.keys()
    off = sum(float((ours[n] - theirs[n]).double().square().sum()) for n in ours)
    size = sum(float(g.double().square().sum()) for g in theirs.values())
    return (off / size) ** 0.5


def compare(one: Gradients, other: Gradients) -> tuple[float, float]:
    assert len(one.updates) == len(other.updates) > 0
    loss = max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))
    grads = max(distance(a, b) for a, b in zip(one.updates, other.updates, strict=True))
    return loss, grads


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("task", ["classification", "instruction", "language_modeling"])
def test_eight_rows_at_once_are_eight_rows_one_by_one(
    tmp_path: Path, task: str, strategy: str
) -> None:
    one, other = (
        still(context(tmp_path, task, STRATEGIES[strategy], rows=21, batch_size=b, accumulate=a))
        for b, a in ((8, 1), (1, 8))
    )
    _, whole = trained(one)
    _, single = trained(other)
    loss, grads = compare(single, whole)
    assert loss < 1e-6 and grads < 1e-5
    assert len(whole.updates) > 1


@pytest.mark.parametrize("task", ["classification", "instruction", "language_modeling"])
def test_a_short_last_window_is_its_own_mean(tmp_path: Path, task: str) -> None:
    """The gradient of every update against one concatenated batch through plain autograd."""
    made = still(context(tmp_path, task, FullFinetune(), rows=13, batch_size=2, accumulate=3))
    loop, seen = trained(made)
    data = TokenData(made, made.accumulate)
    data.setup("fit")
    batches = list(data.train_dataloader().batch_sampler)
    assert len(batches) % made.accumulate != 0
    windows = [batches[k : k + made.accumulate] for k in range(0, len(batches), made.accumulate)]
    assert len(windows) == len(seen.updates)
    for window, update, value in zip(windows, seen.updates, seen.losses, strict=True):
        rows = [data.encoded["train"].rows[i] for batch in window for i in batch]
        loop.zero_grad()
        loss = made.task.loss(loop.net, made.task.collate(rows, made.pad_id))
        (loss.total / loss.count).backward()
        reference = {n: p.grad for n, p in loop.named_parameters() if p.grad is not None}
        assert distance(update, reference) < 1e-5
        assert value == pytest.approx(float(loss.total / loss.count), abs=1e-6)


def test_the_mean_of_means_would_be_noticed(tmp_path: Path) -> None:
    one, other = (
        still(context(tmp_path, "instruction", FullFinetune(), rows=21, batch_size=b, accumulate=a))
        for b, a in ((8, 1), (1, 8))
    )
    _, whole = trained(one)
    _, wrong = trained(other, MeanOfMeans)
    loss, grads = compare(wrong, whole)
    assert loss > 1e-4 and grads > 1e-2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_seed_is_one_run_bit_for_bit(tmp_path: Path, strategy: str) -> None:
    made = context(
        tmp_path, "instruction", STRATEGIES[strategy], rows=21, batch_size=4, accumulate=2
    )
    one, first = trained(made, epochs=2)
    two, second = trained(made, epochs=2)
    assert first.losses == second.losses
    after = two.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in one.state_dict().items())
    _, third = trained(replace(made, seed=1), epochs=2)
    assert third.losses != first.losses
