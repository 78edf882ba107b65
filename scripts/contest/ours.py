"""This project as a contestant: a work as overrides of run.py."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from contest.sides import OURS, ROOT, Side
from peers.work import Work

RUN = str(ROOT / "run.py")
STRATEGY = {
    "head": ["strategy=head_only"],
    "top1": ["strategy=partial_finetune", "strategy.top_blocks=1"],
    "full": ["strategy=full_finetune"],
    "lora": ["strategy=lora"],
    "qlora": ["strategy=qlora", "strategy.dequantize=always"],
    "features": ["strategy=feature_based"],
    "scratch": ["strategy=from_scratch"],
}
# What a peer does not do either: validate, keep checkpoints, send curves anywhere.
QUIET = [
    "tracking=none",
    "hardware=cpu",
    "trainer.limit_val_batches=0",
    "callbacks.checkpoint=null",
    "callbacks.early_stopping=null",
]


def ours(work: Work, *more: str, name: str = OURS, cache: Path | None = None) -> Side:
    """llmexp on a work; its caches are fresh unless a folder of warm ones is given."""
    given = [*STRATEGY[work.trains], *TASKS[work.task](work), f"data.validation={work.few}"]
    return side(work, [*given, *more], name, cache)


def side(work: Work, words: list[str], name: str = OURS, cache: Path | None = None) -> Side:
    """What every work says, with the words that make it this one; the last of a key counts."""

    def command(folder: Path) -> list[str]:
        shared = [
            f"data.train={work.train}",
            f"data.test={work.test}",
            f"data.max_length={work.max_length}",
            f"data.batch_size={work.batch_size}",
            f"trainer.max_epochs={work.epochs}",
            f"trainer.max_steps={work.steps}",
            f"optim.learning_rate={work.learning_rate}",
            f"optim.weight_decay={work.weight_decay}",
            "optim.warmup=0",
            f"seed={work.seed}",
            f"cache.dir={cache or folder / 'cache'}",
            f"hydra.run.dir={folder / 'run'}",
            *QUIET,
        ]
        last = {word.partition("=")[0]: word for word in [*shared, *words]}
        return [sys.executable, RUN, *last.values()]

    return Side(name=name, command=command, work=work)


def classification(work: Work) -> list[str]:
    model = ["model=minilm", f"model.path={work.model}", "model.dropout=0.0"]
    return [*model, "data=classification"]


def instruction(work: Work) -> list[str]:
    model = ["model=local", f"model.path={work.model}"]
    return [*model, "data=instruction", "data.template=plain", "data.generation.examples=0"]


def text(work: Work) -> list[str]:
    """The shape of scripts/peers/scratch.py, with its activation and its fixed learning rate."""
    shape = {**json.loads(work.model), "n_positions": work.max_length}
    # Exact, as torch's own; transformers' default for GPT-2 is the tanh in separate operations.
    shape["activation_function"] = "gelu"
    fields = [f"model.architecture.{key}={value}" for key, value in shape.items()]
    schedule = ["optim.schedule=constant", "optim.beta2=0.99"]
    rest = ["model.tokenizer=char", "model.dropout=0.0", "data=text", "data.generation.examples=0"]
    return ["model=small_gpt", *fields, *rest, *schedule]


TASKS = {"classification": classification, "instruction": instruction, "text": text}


def again(work: Work, folder: Path) -> tuple[Side, Side]:
    """A run that fills a cache, and the same one with other hyper-parameters on the warm cache."""
    other = replace(work, learning_rate=work.learning_rate / 2, seed=work.seed + 1)
    return ours(work, cache=folder), ours(other, cache=folder)
