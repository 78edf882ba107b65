"""A hand-written PyTorch loop with length buckets: the floor under every framework."""

from __future__ import annotations

import random
from typing import Any

import torch
from rows import Rows, labels, scored
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from work import Clock, classifier_config, four_bit, freeze, given, lora_config

work, clock = given(), Clock()
torch.manual_seed(work.seed)
tokenizer = AutoTokenizer.from_pretrained(work.model)
classes = work.task == "classification"
auto: Any = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
more: dict[str, Any] = four_bit() if work.trains == "qlora" else {"dtype": torch.float32}
if classes:
    more |= classifier_config(work.model, len(labels(work)))
net: Any = auto.from_pretrained(work.model, **more)
if work.trains in ("lora", "qlora"):
    from peft import get_peft_model

    net = get_peft_model(net, lora_config(net, classes))
elif classes:
    freeze(net, work.trains)
data = Rows.of(work, "train", tokenizer)
trained = [p for p in net.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(
    trained, lr=work.learning_rate, weight_decay=work.weight_decay, fused=True
)
draw = random.Random(work.seed)
total = work.epochs * -(-len(data.ids) // work.batch_size)
total = total if work.steps < 0 else work.steps
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
net.train()
clock.start()
while clock.steps < total:
    for batch in data.batches(work.batch_size, draw)[: total - clock.steps]:
        loss, _, _ = data.loss(net, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        clock.stepped()
clock.stop()
tokens = work.epochs * data.tokens() if work.steps < 0 else None
clock.report(tokens=tokens, **scored(net, work, tokenizer))
