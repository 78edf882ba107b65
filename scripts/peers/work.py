"""What every contestant of scripts/bench.py is given, and how it says what it did.

A contestant is a program `python scripts/peers/NAME.py WORK.json`; its last line of output is one
JSON object: fit_seconds, steps, tokens (real ones that were trained on), test loss or accuracy, and
first_step_seconds (from the start of the process to the end of the first optimizer step) and
first_step_tokens (real ones that step was computed on).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, kw_only=True)
class Work:
    """One training: the same rows, seed, batch size and number of updates for everybody."""

    task: str
    """classification (rows of text and label), instruction (prompt and completion) or text."""
    model: str
    """A checkpoint's folder; of a text work the shape of a GPT-2, as JSON."""
    train: str
    test: str
    few: str
    """Rows to name as a validation set that nobody reads."""
    trains: str
    """head, top1, full, features, lora, qlora, scratch."""
    epochs: int
    batch_size: int
    max_length: int
    learning_rate: float
    weight_decay: float = 0.0
    """Of the trained parameters; with any, each contestant leaves out others of them."""
    steps: int = -1
    """Ends training after so many updates; -1: after the epochs."""
    seed: int = 0
    flags: str = "best"
    """Of a peer: best, default, packed, first (whose first batch is like any other); of a GPU's
    also compiled and flash."""

    def rows(self, split: str) -> list[dict[str, str]]:
        lines = Path(getattr(self, split)).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def given() -> Work:
    return Work(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


class Clock:
    """Seconds of the fit, and from the start of the process to its first optimizer step."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.tokens: list[int] = []
        """Of each batch in turn, where a collator counts them."""
        self.ends: list[float] = []
        """Of each step."""
        self.began = 0.0
        self.ended = 0.0
        self.steps = 0

    def start(self) -> None:
        self.began = time.perf_counter()

    def watching(self, collate: Any) -> Any:
        """A collator that counts the real tokens of each batch."""

        def counted(rows: Any) -> Any:
            batch = collate(rows)
            # Packed rows have no padding, and no mask.
            there = batch.get("attention_mask")
            self.tokens.append(int(batch["input_ids"].numel() if there is None else there.sum()))
            return batch

        return counted

    def stepped(self) -> None:
        self.steps += 1
        self.ends.append(time.perf_counter())
        if self.first is None:
            self.first = time.time() - psutil.Process().create_time()

    def steady(self) -> float:
        """Tokens a second after the first third of the steps: a GPU warms up."""
        skipped = max(1, self.steps // 3)
        return sum(self.tokens[skipped : self.steps]) / (self.ends[-1] - self.ends[skipped - 1])

    def stop(self) -> None:
        """What comes after is no part of the fit."""
        self.ended = time.perf_counter()

    def report(self, **more: Any) -> None:
        found = {
            "fit_seconds": self.ended - self.began,
            "first_step_seconds": self.first,
            "first_step_tokens": self.tokens[0] if self.tokens else None,
            "steps": self.steps,
        }
        print(json.dumps(found | more))


def classifier_config(model: str, labels: int) -> dict[str, Any]:
    """Of a network that does not drop out: with dropout others would do other work."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, num_labels=labels)
    for name in [name for name in vars(config) if "dropout" in name]:
        if isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    return {"config": config}


def lora_config(net: Any, classes: bool) -> Any:
    """r=8 on every linear layer of the backbone, as strategy=lora has it."""
    from peft import LoraConfig, TaskType

    kind = TaskType.SEQ_CLS if classes else TaskType.CAUSAL_LM
    names = {
        n.rpartition(".")[2]
        for n, m in net.named_modules()
        if "Linear" in type(m).__name__ and "classifier" not in n and "lm_head" not in n
    }
    whole = ["classifier"] if classes else None
    return LoraConfig(
        task_type=kind, r=8, lora_alpha=16, target_modules=sorted(names), modules_to_save=whole
    )


def four_bit() -> dict[str, Any]:
    """The base as strategy=qlora loads it."""
    import torch
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )
    return {"quantization_config": settings}


def freeze(net: Any, trains: str) -> None:
    """What strategy=head_only and strategy=partial_finetune top_blocks=1 train of a BERT."""
    if trains == "full":
        return
    net.requires_grad_(False)
    parts = [net.classifier, net.bert.pooler]
    if trains == "top1":
        parts.append(net.bert.encoder.layer[-1])
    for part in parts:
        part.requires_grad_(True)
