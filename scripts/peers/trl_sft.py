"""TRL's SFTTrainer on prompt and completion, at its best flags on a CPU or at its defaults."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from rows import scored
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
from work import Clock, four_bit, given, lora_config

work, clock = given(), Clock()
torch.manual_seed(work.seed)
tokenizer = AutoTokenizer.from_pretrained(work.model)
net = AutoModelForCausalLM.from_pretrained(
    work.model, **(four_bit() if work.trains == "qlora" else {})
)
best = {
    "train_sampling_strategy": "group_by_length",
    "gradient_checkpointing": False,
    "max_grad_norm": 0.0,
    "logging_strategy": "no",
}
FLAGS: dict[str, dict[str, Any]] = {
    "default": {},
    "best": best,
    # Grouped by length the longest batch comes first, which is more work than another's first.
    "first": {**best, "train_sampling_strategy": "random"},
    "packed": {"packing": True, "gradient_checkpointing": False, "logging_strategy": "no"},
}


class Watch(TrainerCallback):
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        clock.stepped()


arguments = SFTConfig(
    output_dir=tempfile.mkdtemp(),
    num_train_epochs=work.epochs,
    max_steps=work.steps,
    per_device_train_batch_size=work.batch_size,
    learning_rate=work.learning_rate,
    weight_decay=work.weight_decay,
    max_length=work.max_length,
    completion_only_loss=True,
    bf16=False,
    seed=work.seed,
    use_cpu=not torch.cuda.is_available(),
    report_to=[],
    save_strategy="no",
    disable_tqdm=True,
    **FLAGS[work.flags],
)
trainer = SFTTrainer(
    model=net,
    args=arguments,
    train_dataset=Dataset.from_list(work.rows("train")),
    processing_class=tokenizer,
    peft_config=lora_config(net, classes=False),
    callbacks=[Watch()],
)
trainer.data_collator = clock.watching(trainer.data_collator)
clock.start()
trainer.train()
clock.stop()
tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
tokens = work.epochs * tokens if work.steps < 0 else None
clock.report(tokens=tokens, **scored(trainer.model, work, tokenizer))
