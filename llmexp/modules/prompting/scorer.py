"""How likely a language model finds each of several continuations of a prompt."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class ContinuationScorer:
    """Mean log-probability per token of every continuation after a prompt: [B, C].

    Prompts of one length share a forward pass, so nothing is padded before a continuation and
    positions are right on every architecture; continuations read the prompt from the cache and are
    padded at their end, where causal attention cannot see it.
    """

    def __init__(self, net: Any, continuations: list[list[int]], batch_size: int):
        self.net = net
        self.continuations = continuations
        self.batch_size = batch_size
        takes = inspect.signature(net.forward).parameters
        # Logits of a whole prompt are rows x tokens x vocabulary floats; one position is needed.
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @torch.inference_mode()
    def __call__(self, prompts: list[list[int]]) -> Tensor:
        device = next(self.net.parameters()).device
        scores = torch.empty(len(prompts), len(self.continuations), device=device)
        lengths: dict[int, list[int]] = {}
        for i, ids in enumerate(prompts):
            lengths.setdefault(len(ids), []).append(i)
        for members in lengths.values():
            for start in range(0, len(members), self.batch_size):
                part = members[start : start + self.batch_size]
                scores[part] = self._score(torch.tensor([prompts[i] for i in part], device=device))
        return scores

    def _score(self, ids: Tensor) -> Tensor:
        """Equally long prompts [G, T] -> [G, C]."""
        out = self.net(input_ids=ids, use_cache=True, **self.last_only)
        first = out.logits[:, -1].float().log_softmax(-1)  # [G, V]
        heads = torch.tensor([c[0] for c in self.continuations], device=ids.device)
        totals = first[:, heads].clone()  # [G, C]
        longer = [c for c, tokens in enumerate(self.continuations) if len(tokens) > 1]
        step = max(1, self.batch_size // len(ids))
        for start in range(0, len(longer), step):
            part = longer[start : start + step]
            totals[:, part] += self._rest(out.past_key_values, len(ids), part)
        lengths = torch.tensor([len(c) for c in self.continuations], device=ids.device)
        return totals / lengths

    def _rest(self, prompt_cache: Any, prompts: int, part: list[int]) -> Tensor:
        """Summed log-probability of all but the first token of some continuations: [G, P]."""
        # A forward pass writes into its cache, and the next part needs the prompt alone.
        cache = copy.deepcopy(prompt_cache)
        cache.batch_repeat_interleave(len(part))
        device = next(self.net.parameters()).device
        tokens = [torch.tensor(self.continuations[c], device=device) for c in part]
        inputs = pad_sequence([t[:-1] for t in tokens], batch_first=True).repeat(prompts, 1)
        targets = pad_sequence([t[1:] for t in tokens], batch_first=True, padding_value=-1)
        targets = targets.repeat(prompts, 1)  # [G * P, L]
        logits = self.net(input_ids=inputs, past_key_values=cache, use_cache=True).logits
        picked = logits.float().log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1))
        sums = picked.squeeze(-1).masked_fill(targets < 0, 0.0).sum(-1)
        return sums.view(prompts, len(part))
