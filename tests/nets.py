"""Contexts and batches for tests of what strategies do to a network, without a run around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmexp.config import Cache
from llmexp.context import Context
from llmexp.models import HFModel
from llmexp.optim import AdamW
from llmexp.strategies.base import Strategy
from llmexp.strategies.lora import LoRA
from llmexp.strategies.qlora import QLoRA
from llmexp.tasks.base import Examples, Task
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from tests import tiny

FAMILIES = {"bert": tiny.bert, "gpt2": tiny.gpt2, "llama": tiny.llama}
ADAPTERS = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}
ADAPTERS |= {"rslora": False, "dora": False, "layers": None, "merge": False}
FOUR_BIT = {
    "quant_type": "nf4",
    "double_quant": True,
    "compute_dtype": "float32",
    "dequantize": "never",
}
LABELS = ["bad", "fine", "good"]
OPTIM = AdamW(
    learning_rate=1e-2,
    weight_decay=0.0,
    beta1=0.9,
    beta2=0.999,
    warmup=0,
    schedule="constant",
    states="full",
)


def lora(**changes: Any) -> LoRA:
    return LoRA(**{**ADAPTERS, **changes})


def qlora(**changes: Any) -> QLoRA:
    return QLoRA(**{**ADAPTERS, **FOUR_BIT, **changes})


def classification() -> tuple[Task, Examples]:
    """Texts of very different lengths in three classes."""
    rows = [
        {"text": " ".join([tiny.TEXTS[i % 3]] * (1 + i % 3)), "label": LABELS[i % 3]}
        for i in range(12)
    ]
    task = Classification(train="made.jsonl", batch_size=4)
    return task, Examples(train=rows, validation=rows, test=rows, labels=LABELS)


def instruction() -> tuple[Task, Examples]:
    rows = [
        {
            "messages": [
                {"role": "user", "content": tiny.TEXTS[i % 3]},
                {"role": "assistant", "content": LABELS[i % 3]},
            ]
        }
        for i in range(6)
    ]
    task = Instruction(train="made.jsonl", batch_size=3, template="plain")
    return task, Examples(train=rows, validation=rows, test=rows)


def context(
    folder: Path, strategy: Strategy, posed: tuple[Task, Examples] | None = None, **model: Any
) -> Context:
    """What a run on the checkpoint in `folder` would know after reading its data."""
    task, examples = posed or classification()
    spec = HFModel(path=str(folder), **model)
    tokenizer = spec.load_tokenizer()
    task.prepare(tokenizer)
    config = strategy.config(spec, task, examples, tokenizer)
    return Context(
        strategy=strategy,
        model=spec,
        task=task,
        optim=OPTIM,
        cache=Cache(enabled=False, dir=str(folder), max_gb=1.0),
        seed=0,
        folder=folder.parent / f"{folder.name}-run",
        examples=examples,
        tokenizer=tokenizer,
        config=config,
        max_length=96,
        accumulate=1,
    )


def adapted(made: Context) -> Any:
    """The network as the run would train it, with the same new weights each time."""
    torch.manual_seed(0)
    return made.strategy.adapt(made.strategy.load(made), made)


def batch(made: Context, rows: int = 6) -> dict[str, Any]:
    task, examples = made.task, made.examples
    encoded = task.encode(examples.train[:rows], made.tokenizer, made.max_length, examples.labels)
    return task.collate(encoded.rows, made.pad_id)


def logits(net: Any, made: Context) -> torch.Tensor:
    net.eval()
    with torch.no_grad():
        return made.task.loss(net, batch(made)).logits


def gradients(net: Any, made: Context) -> dict[str, torch.Tensor]:
    """The gradient of the summed loss in training mode, by parameter name."""
    net.train()
    net.zero_grad()
    made.task.loss(net, batch(made)).total.backward()
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def steps(net: Any, made: Context, count: int = 3) -> None:
    """A few updates of what requires a gradient."""
    optimizer = OPTIM.build(net, count)["optimizer"]
    for _ in range(count):
        gradients(net, made)
        optimizer.step()


def frozen(net: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in net.named_parameters() if not p.requires_grad}
