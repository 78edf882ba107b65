"""What one run knows once its data is read; handed to the strategy, the data and the module."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from llmexp.config import Cache
    from llmexp.configure.preflight import Experiment
    from llmexp.models import HFModel
    from llmexp.optim import AdamW
    from llmexp.strategies.base import Strategy
    from llmexp.tasks.base import Examples, Task

log = logging.getLogger("llmexp")


@dataclass(frozen=True)
class Context:
    """The specs of the experiment, and the run-time facts that YAML cannot know."""

    strategy: Strategy
    model: HFModel
    task: Task
    optim: AdamW
    cache: Cache
    seed: int
    folder: Path
    examples: Examples
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    max_length: int
    accumulate: int

    @property
    def pad_id(self) -> int:
        """The id written into padding; masks hide it, so any id would do."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0


def context_of(e: Experiment, folder: Path, examples: Examples) -> Context:
    """Read the small files of the model: everything that can be wrong but its weights."""
    tokenizer = e.strategy.tokenizer(e.model, e.task, examples)
    e.task.prepare(tokenizer)
    for remark in e.task.remarks(tokenizer):
        log.warning(remark)
        examples.notes.append(remark)
    if e.model.max_length is not None:
        tokenizer.model_max_length = e.model.max_length
    config = e.strategy.config(e.model, e.task, examples, tokenizer)
    return Context(
        strategy=e.strategy,
        model=e.model,
        task=e.task,
        optim=e.optim,
        cache=e.config.cache,
        seed=e.config.seed,
        folder=folder,
        examples=examples,
        tokenizer=tokenizer,
        config=config,
        max_length=min(e.task.max_length or 10**9, e.model.longest(config)),
        accumulate=e.config.trainer.get("accumulate_grad_batches", 1),
    )
