"""A GPT trained from scratch on characters, in a loop as short as nanoGPT's (Karpathy 2022).

Written anew after its description: pre-norm blocks, fused query-key-value, causal attention by
torch's own kernel, tied embeddings, random crops of the text, AdamW with clipped gradients.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from work import Clock, given

work, clock = given(), Clock()
shape: dict[str, Any] = json.loads(work.model)
width, heads, length = shape["n_embd"], shape["n_head"], work.max_length


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attend(self.before(x)).split(width, dim=-1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(self.between(x))))


class Gpt(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block() for _ in range(shape["n_layer"]))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, truth: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), truth.flatten())


torch.manual_seed(work.seed)
draw = random.Random(work.seed)
text = Path(work.train).read_text(encoding="utf-8")
letters = {letter: i for i, letter in enumerate(sorted(set(text)))}
data = torch.tensor([letters[letter] for letter in text])
net = Gpt(len(letters))
matrices = [p for p in net.parameters() if p.ndim >= 2]
vectors = [p for p in net.parameters() if p.ndim < 2]
groups = [
    {"params": matrices, "weight_decay": work.weight_decay},
    {"params": vectors, "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=work.learning_rate, betas=(0.9, 0.99), fused=True)
clock.start()
for _ in range(work.steps):
    at = [draw.randrange(len(data) - length) for _ in range(work.batch_size)]
    ids = torch.stack([data[i : i + length] for i in at])
    truth = torch.stack([data[i + 1 : i + 1 + length] for i in at])
    loss = net(ids, truth)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    clock.stepped()
clock.stop()
net.eval()
rest = Path(work.test).read_text(encoding="utf-8")
known = torch.tensor([letters[letter] for letter in rest if letter in letters])
cut = known[: (len(known) - 1) // length * length]
with torch.no_grad():
    score = net(cut.view(-1, length), known[1 : len(cut) + 1].view(-1, length))
clock.report(tokens=work.steps * work.batch_size * length, loss=float(score))
