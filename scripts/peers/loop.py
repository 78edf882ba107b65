"""A hand-written PyTorch loop with length buckets: the floor under every framework."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from work import Clock, freeze, given, lora_config

work, clock = given(), Clock()
torch.manual_seed(work.seed)
tokenizer = AutoTokenizer.from_pretrained(work.model)
classes = work.task == "classification"
rows = work.rows("train")
labels = sorted({row["label"] for row in rows}) if classes else []


def encoded(row: dict[str, str]) -> tuple[list[int], Any]:
    """Token ids with a label, or with how many of them are the prompt's."""
    if classes:
        ids = tokenizer(row["text"], truncation=True, max_length=work.max_length)["input_ids"]
        return ids, labels.index(row["label"])
    prompt = tokenizer(row["prompt"])["input_ids"]
    answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    return [*prompt, *answer, tokenizer.eos_token_id][: work.max_length], len(prompt)


def buckets(lengths: list[int], generator: random.Random) -> list[list[int]]:
    """Batches of rows of like length, in random order."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], generator.random()))
    batches = [order[i : i + work.batch_size] for i in range(0, len(order), work.batch_size)]
    generator.shuffle(batches)
    return batches


def padded(batch: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(ids) for ids in batch])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.tensor([i for one in batch for i in one])
    return ids, mask


four_bit = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)
more = {"quantization_config": four_bit} if work.trains == "qlora" else {}
auto: Any = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
net: Any = auto.from_pretrained(
    work.model, **more, **({"num_labels": len(labels)} if classes else {})
)
if work.trains in ("lora", "qlora"):
    from peft import get_peft_model

    net = get_peft_model(net, lora_config(net, classes))
elif classes:
    freeze(net, work.trains)
data = [encoded(row) for row in rows]
trained = [p for p in net.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=work.learning_rate, fused=True)
generator = random.Random(work.seed)
total = work.epochs * -(-len(data) // work.batch_size)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
net.train()
clock.start()
for _ in range(work.epochs):
    for batch in buckets([len(ids) for ids, _ in data], generator):
        ids, mask = padded([data[i][0] for i in batch])
        if classes:
            truth = torch.tensor([data[i][1] for i in batch])
            loss = F.cross_entropy(net(input_ids=ids, attention_mask=mask.long()).logits, truth)
        else:
            starts = torch.tensor([data[i][1] for i in batch])
            asked = mask & (torch.arange(ids.shape[1]) >= starts[:, None])
            logits = net(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
            loss = F.cross_entropy(logits[:, :-1][asked[:, 1:]], ids[:, 1:][asked[:, 1:]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        clock.stepped()
clock.report(tokens=work.epochs * sum(len(ids) for ids, _ in data), loss=float(loss.detach()))
