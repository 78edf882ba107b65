"""Every trained strategy on every task with every way of batching, as tiny experiments.

A learning rate of zero makes every update start from the same weights, so gradients of different
cuts can be compared; weights after Adam could not, for it amplifies rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmexp.context import Context
from llmexp.strategies.base import Strategy
from llmexp.strategies.from_scratch import FromScratch
from llmexp.strategies.full_finetune import FullFinetune
from llmexp.strategies.head_only import HeadOnly
from llmexp.strategies.partial_finetune import PartialFinetune
from llmexp.tasks.base import Examples, Row
from llmexp.tasks.classification import Classification
from llmexp.tasks.generation import Generation
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from tests import fitted, nets, tiny

WORDS = tiny.TEXTS[0].split()
# Made for the number of rows of a step, which feature_based says itself.
STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "head_only": lambda rows: HeadOnly(),
    "partial_finetune": lambda rows: PartialFinetune(top_blocks=1),
    "full_finetune": lambda rows: FullFinetune(),
    "lora": lambda rows: nets.lora(),
    "qlora": lambda rows: nets.qlora(),
    "from_scratch": lambda rows: FromScratch(),
    "feature_based": lambda rows: fitted.features(batch_size=rows),
}
TASKS = ("classification", "instruction", "language_modeling")
# Padded tokens of a batch where batches are made under a budget.
BUDGET = 110
# Not divided by any number of processes or rows: a window and a batch stay unfilled.
TRAIN = 21
# Of validation and test, so many that an odd number of token rows comes of them, and that a process
# has none in the last round: (task, batching) where that is not (9, 17).
HELD_OUT = {
    ("classification", "tokens"): (13, 19),
    ("instruction", "tokens"): (9, 13),
    ("language_modeling", "rows"): (4, 7),
    ("language_modeling", "tokens"): (4, 7),
    ("language_modeling", "packed"): (7, 15),
}


class Case(NamedTuple):
    """What is trained, on what, and how rows come together: rows, tokens or packed."""

    strategy: str
    task: str
    batching: str


CASES = [
    Case(strategy, task, batching)
    for strategy in STRATEGIES
    for task in TASKS
    for batching in ("rows", "tokens", "packed")
    if not (task == "classification" and batching == "packed")  # packs are of documents
    and not (strategy == "feature_based" and (task, batching) != ("classification", "rows"))
]

# Every strategy, every task and every way of batching at least once; the others take longer.
TELLING = [
    Case("head_only", "classification", "rows"),
    Case("partial_finetune", "instruction", "rows"),
    Case("full_finetune", "classification", "rows"),
    Case("full_finetune", "instruction", "tokens"),
    Case("full_finetune", "language_modeling", "packed"),
    Case("lora", "instruction", "packed"),
    Case("qlora", "classification", "tokens"),
    Case("qlora", "instruction", "rows"),
    Case("from_scratch", "language_modeling", "rows"),
    Case("feature_based", "classification", "rows"),
]


def named(case: Case) -> Any:
    """A case as a parameter of a test."""
    marks = () if case in TELLING else (pytest.mark.long,)
    return pytest.param(case, id="-".join(case), marks=marks)


class Cut(NamedTuple):
    """How an update is cut: rows of a micro-batch on one process, and micro-batches."""

    rows: int
    accumulate: int


def ragged(i: int) -> str:
    """Texts of 1 to 15 words."""
    return " ".join(WORDS[: 1 + (7 * i) % 15])


def posed(task: str, rows: int) -> tuple[Any, list[Row], list[str]]:
    if task == "classification":
        labels = ["bad", "good"]
        made = [{"text": ragged(i), "label": labels[i % 2]} for i in range(rows)]
        return Classification(train="made.jsonl"), made, labels
    short = Generation(max_new_tokens=3, examples=3)
    if task == "instruction":
        asked = [{"role": "user", "content": ragged(i + 3)} for i in range(rows)]
        answers = [{"role": "assistant", "content": ragged(i)} for i in range(rows)]
        made = [{"messages": list(turns)} for turns in zip(asked, answers, strict=True)]
        return Instruction(train="made.jsonl", template="plain", generation=short), made, []
    made = [{"text": f"{ragged(i)} {ragged(2 * i)}"} for i in range(rows)]
    return LanguageModeling(train="made.txt", generation=short), made, []


def held_out(case: Case) -> tuple[int, int]:
    """Examples that validate and test."""
    return HELD_OUT.get((case.task, case.batching), (9, 17))


def checkpoints(folder: Path) -> Path:
    """The tiny networks of every task, made where they are not yet."""
    for task in TASKS:
        if not (folder / task).exists():
            (tiny.bert if task == "classification" else tiny.llama)(folder / task)
    return folder


def context(folder: Path, case: Case, cut: Cut) -> Context:
    """The experiment on the checkpoints in `folder`, in fp32, without dropout, standing still."""
    spec, train, labels = posed(case.task, TRAIN)
    spec = replace(
        spec, batch_size=cut.rows, tokens_per_batch=BUDGET if case.batching == "tokens" else None
    )
    if case.batching == "packed":
        spec = replace(spec, packing=True)
    validation, test = (train[:count] for count in held_out(case))
    examples = Examples(train=train, validation=validation, test=test, labels=labels)
    strategy = STRATEGIES[case.strategy](cut.rows)
    known = nets.context(checkpoints(folder) / case.task, strategy, (spec, examples))
    # Short blocks and packs, so that there are some.
    length = 200 if case.task == "classification" else 72 if case.batching == "packed" else 24
    length = 96 if case.task == "instruction" else length
    optim = replace(known.optim, learning_rate=0.0)
    return replace(known, accumulate=cut.accumulate, max_length=length, optim=optim)
