"""The Hugging Face Trainer on a classification, at its best flags on a CPU or at its defaults."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from rows import Rows, labels, scored
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from work import Clock, classifier_config, freeze, given, lora_config

work, clock = given(), Clock()
gpu = torch.cuda.is_available()
torch.manual_seed(work.seed)
tokenizer = AutoTokenizer.from_pretrained(work.model)
net: Any = AutoModelForSequenceClassification.from_pretrained(
    work.model,
    # What is trained is float32, under autocast on a GPU, whatever the checkpoint was saved in.
    dtype=torch.float32,
    **classifier_config(work.model, len(labels(work))),
)
if work.trains == "lora":
    from peft import get_peft_model

    net = get_peft_model(net, lora_config(net, classes=True))
else:
    freeze(net, work.trains)
rows = Rows.of(work, "train", tokenizer)
best = {
    "train_sampling_strategy": "group_by_length",
    "max_grad_norm": 0.0,
    "logging_strategy": "no",
}
FLAGS: dict[str, dict[str, Any]] = {
    "default": {},
    "best": best,
    # Grouped by length the longest batch comes first, which is more work than another's first.
    "first": {**best, "train_sampling_strategy": "random"},
}


class Watch(TrainerCallback):
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if gpu:
            torch.cuda.synchronize()
        clock.stepped()


arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    num_train_epochs=work.epochs,
    max_steps=work.steps,
    per_device_train_batch_size=work.batch_size,
    learning_rate=work.learning_rate,
    weight_decay=work.weight_decay,
    seed=work.seed,
    bf16=gpu,
    use_cpu=not gpu,
    report_to=[],
    save_strategy="no",
    disable_tqdm=True,
    **FLAGS[work.flags],
)
trainer = Trainer(
    model=net,
    args=arguments,
    train_dataset=Dataset.from_dict({"input_ids": rows.ids, "labels": rows.about}),
    data_collator=clock.watching(DataCollatorWithPadding(tokenizer, padding=True)),
    callbacks=[Watch()],
)
clock.start()
trainer.train()
clock.stop()
tokens = work.epochs * rows.tokens() if work.steps < 0 else None
more: dict[str, Any] = {}
if gpu:
    more["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    more["tokens_per_second"] = clock.steady()
    # Scoring is on the CPU, as its rows are.
    net.cpu()
clock.report(tokens=tokens, **more, **scored(net, work, tokenizer))
