"""Text written by a language model: settings, and the batched loop around transformers' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmexp.config import NonNegativeFloat, NonNegativeInt, PositiveInt, spec
from llmexp.data.shortened import without_beginning

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@spec
class Generation:
    """How test answers are written."""

    max_new_tokens: PositiveInt = 64
    temperature: NonNegativeFloat = 0.0
    """0 takes the likeliest token each time."""
    examples: NonNegativeInt = 32
    """The first this many test rows get an answer; the loss counts all."""

    def generate(
        self,
        net: Any,
        prompts: list[list[int]],
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: list[int],
        longest: int,
        batch_size: int = 8,
    ) -> list[str]:
        """An answer for each prompt of token ids, in order; it ends before a stop token.

        Prompt and answer together stay within `longest` tokens: a prompt too long loses its
        beginning but for BOS, as in training. The same prompts give the same answers, whatever
        ran before.
        """
        import torch

        new = min(self.max_new_tokens, max(1, longest // 2))
        room, bos = max(1, longest - new), tokenizer.bos_token_id
        cut = [without_beginning(ids, max(0, len(ids) - room), bos)[0] for ids in prompts]
        order = sorted(range(len(cut)), key=lambda i: -len(cut[i]))
        answers = [""] * len(cut)
        devices = [net.device] if net.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(0)
            for start in range(0, len(order), batch_size):
                mine = order[start : start + batch_size]
                written = self._batch(net, [cut[i] for i in mine], tokenizer, stop_ids, new)
                for i, ids in zip(mine, written, strict=True):
                    answers[i] = str(tokenizer.decode(ids, skip_special_tokens=True))
        return answers

    def _batch(
        self,
        net: Any,
        prompts: list[list[int]],
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: list[int],
        new: int,
    ) -> list[list[int]]:
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        ids, mask = left_padded(prompts, pad_id)
        sampling = {"temperature": self.temperature, "top_k": 0} if self.temperature > 0 else {}
        out = net.generate(
            input_ids=ids.to(net.device),
            attention_mask=mask.to(net.device),
            max_new_tokens=new,
            do_sample=self.temperature > 0,
            eos_token_id=stop_ids or None,
            pad_token_id=pad_id,
            use_cache=True,
            **sampling,
        )
        return [_before_stop(row[ids.shape[1] :], stop_ids) for row in out.tolist()]


def left_padded(prompts: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask [B, T] whose last column is every prompt's last token."""
    import torch

    longest = max(len(ids) for ids in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(prompt)
        mask[i, longest - len(prompt) :] = 1
    return ids, mask


def _before_stop(ids: list[int], stop_ids: list[int]) -> list[int]:
    ends = [k for k, token in enumerate(ids) if token in stop_ids]
    return ids[: ends[0]] if ends else ids
