"""TRL's SFTTrainer on prompt and completion, at its best flags on a CPU or at its defaults."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer
from work import Clock, given, lora_config

work, clock = given(), Clock()
torch.manual_seed(work.seed)
tokenizer = AutoTokenizer.from_pretrained(work.model)
rows = work.rows("train")
four_bit = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)
more: dict[str, Any] = {"quantization_config": four_bit} if work.trains == "qlora" else {}
net = AutoModelForCausalLM.from_pretrained(work.model, **more)
best = {"train_sampling_strategy": "group_by_length", "gradient_checkpointing": False}


class Watch(TrainerCallback):
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        clock.stepped()


arguments = SFTConfig(
    output_dir=tempfile.mkdtemp(),
    num_train_epochs=work.epochs,
    per_device_train_batch_size=work.batch_size,
    learning_rate=work.learning_rate,
    max_length=work.max_length,
    completion_only_loss=True,
    bf16=False,
    seed=work.seed,
    use_cpu=not torch.cuda.is_available(),
    report_to=[],
    save_strategy="no",
    logging_strategy="no" if work.flags == "best" else "steps",
    disable_tqdm=True,
    **({"packing": True} if work.flags == "packed" else best if work.flags == "best" else {}),
)
trainer = SFTTrainer(
    model=net,
    args=arguments,
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
    peft_config=lora_config(net, classes=False),
    callbacks=[Watch()],
)
clock.start()
done = trainer.train()
ids = trainer.train_dataset["input_ids"]
clock.report(
    fit_seconds=done.metrics["train_runtime"],
    tokens=work.epochs * sum(len(one) for one in ids),
    loss=done.training_loss,
)
