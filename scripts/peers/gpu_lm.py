"""TRL's SFTTrainer on packed text in bfloat16, with PEFT and bitsandbytes: scripts/bench_gpu.py."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
from work import four_bit, given, lora_config

work = given()
gpu = torch.cuda.is_available()
torch.manual_seed(work.seed)
torch.set_float32_matmul_precision("high")
tokenizer = AutoTokenizer.from_pretrained(work.model)
adapters = work.trains in ("lora", "qlora")
net: Any = AutoModelForCausalLM.from_pretrained(
    work.model,
    # What is trained whole is float32 under autocast, as here.
    dtype=torch.bfloat16 if adapters else torch.float32,
    attn_implementation="flash_attention_2" if work.flags == "flash" else None,
    **(four_bit() if work.trains == "qlora" else {}),
)
ends: list[float] = []


class Watch(TrainerCallback):
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if gpu:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())


text = Path(work.train).read_text(encoding="utf-8")
parts = [text[i : i + 4000] for i in range(0, len(text), 4000)]
arguments = SFTConfig(
    output_dir=tempfile.mkdtemp(),
    max_steps=work.steps,
    per_device_train_batch_size=work.batch_size,
    learning_rate=work.learning_rate,
    max_length=work.max_length,
    packing=True,
    # With flash attention documents attend within themselves, as TRL recommends.
    packing_strategy="bfd" if work.flags == "flash" else "wrapped",
    torch_compile=work.flags == "compiled",
    bf16=gpu,
    gradient_checkpointing=work.flags == "default",
    seed=work.seed,
    use_cpu=not gpu,
    report_to=[],
    save_strategy="no",
    logging_strategy="no",
    disable_tqdm=True,
)
trainer = SFTTrainer(
    model=net,
    args=arguments,
    train_dataset=Dataset.from_list([{"text": part} for part in parts]),
    processing_class=tokenizer,
    peft_config=lora_config(net, classes=False) if adapters else None,
    callbacks=[Watch()],
)
trainer.train()
skipped = work.steps // 3
seconds = ends[-1] - ends[skipped - 1]
rate = (work.steps - skipped) * work.batch_size * work.max_length / seconds
peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else None
print(json.dumps({"tokens_per_second": rate, "gpu_memory_mb": peak, "steps": work.steps}))
