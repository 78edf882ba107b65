"""The Hugging Face Trainer on a classification, at its best flags on a CPU or at its defaults."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from work import Clock, freeze, given, lora_config

work, clock = given(), Clock()
torch.manual_seed(work.seed)
train, test = work.rows("train"), work.rows("test")
labels = sorted({row["label"] for row in train})
tokenizer = AutoTokenizer.from_pretrained(work.model)


def encoded(rows: list[dict[str, str]]) -> Dataset:
    made = tokenizer(
        [row["text"] for row in rows], truncation=True, max_length=work.max_length
    )
    made["labels"] = [labels.index(row["label"]) for row in rows]
    return Dataset.from_dict(dict(made))


net: Any = AutoModelForSequenceClassification.from_pretrained(work.model, num_labels=len(labels))
if work.trains == "lora":
    from peft import get_peft_model

    net = get_peft_model(net, lora_config(net, classes=True))
else:
    freeze(net, work.trains)
best = {"train_sampling_strategy": "group_by_length", "max_grad_norm": 0.0}


class Watch(TrainerCallback):
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        clock.stepped()


data = encoded(train)
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    num_train_epochs=work.epochs,
    per_device_train_batch_size=work.batch_size,
    per_device_eval_batch_size=64,
    learning_rate=work.learning_rate,
    seed=work.seed,
    use_cpu=not torch.cuda.is_available(),
    report_to=[],
    save_strategy="no",
    logging_strategy="no" if work.flags == "best" else "steps",
    disable_tqdm=True,
    **(best if work.flags == "best" else {}),
)
trainer = Trainer(
    model=net,
    args=arguments,
    train_dataset=data,
    data_collator=DataCollatorWithPadding(tokenizer, padding=True),
    callbacks=[Watch()],
)
clock.start()
done = trainer.train()
seconds = done.metrics["train_runtime"]
scores = trainer.predict(encoded(test)).predictions.argmax(-1)
right = sum(labels[i] == row["label"] for i, row in zip(scores, test, strict=True))
clock.report(
    fit_seconds=seconds,
    tokens=work.epochs * sum(map(len, data["input_ids"])),
    loss=done.training_loss,
    accuracy=right / len(test),
)
