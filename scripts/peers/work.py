"""What every contestant of scripts/bench.py is given, and how it says what it did.

A contestant is a program `python scripts/peers/NAME.py WORK.json`; its last line of output is one
JSON object: fit_seconds, tokens (real ones that were trained on), loss, perhaps accuracy, and
first_step_seconds (from the start of the process to the end of the first optimizer step).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Work:
    """One training: the same rows, seed, batch size and number of updates for everybody."""

    task: str
    """classification (rows of text and label) or instruction (prompt and completion)."""
    model: str
    train: str
    test: str
    trains: str
    """head, top1, full, lora, qlora."""
    epochs: int
    batch_size: int
    max_length: int
    learning_rate: float
    seed: int = 0
    flags: str = "best"
    """best or default, of a peer."""

    def rows(self, split: str) -> list[dict[str, str]]:
        lines = Path(getattr(self, split)).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def given() -> Work:
    return Work(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


class Clock:
    """Seconds of the fit, and from the start of the process to its first optimizer step."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.began = 0.0

    def start(self) -> None:
        self.began = time.perf_counter()

    def stepped(self) -> None:
        if self.first is None:
            self.first = time.time() - psutil.Process().create_time()

    def report(self, **more: Any) -> None:
        fit = more.pop("fit_seconds", None) or time.perf_counter() - self.began
        print(json.dumps({"fit_seconds": fit, "first_step_seconds": self.first, **more}))


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
