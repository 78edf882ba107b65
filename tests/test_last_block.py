"""A classifier that reads one position pays for one in its last block, and answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmexp.nets.architecture import blocks
from llmexp.nets.last_block import read_first
from llmexp.nets.last_token import read_last
from llmexp.strategies.full_finetune import FullFinetune
from tests import fitted, nets
from tests.test_prefix import SHAPES, shaped

READ = dict.fromkeys(("bert", "roberta", "electra", "distilbert"), read_first)
READ |= dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gpt2"), read_last)
OTHERS = [family for family in SHAPES if family not in READ]


def batch(net: Any, rows: int = 5, length: int = 40) -> dict[str, Any]:
    torch.manual_seed(1)
    lengths = torch.linspace(3, length, rows).long()
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = mask * torch.randint(3, net.get_input_embeddings().num_embeddings, mask.shape)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % 3}


def outcome(net: Any) -> list[torch.Tensor]:
    out = net(**batch(net))
    named = [p for p in net.parameters() if p.requires_grad]
    found = torch.autograd.grad(out.loss, named, allow_unused=True)
    return [out.logits.detach(), *(torch.zeros(1) if g is None else g for g in found)]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", READ)
def test_logits_and_gradients_are_those_of_the_whole_block(family: str, kernel: str) -> None:
    net = shaped(family).eval()
    net.set_attn_implementation(kernel)
    expected = outcome(net)
    with FlopCounterMode(display=False) as whole:
        outcome(net)
    assert READ[family](net)
    with FlopCounterMode(display=False) as less:
        found = outcome(net)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert float((found[0] - expected[0]).abs().max()) <= 1e-6 * float(expected[0].abs().max())
    assert less.get_total_flops() < 0.85 * whole.get_total_flops()


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_compute_what_they_always_did(family: str) -> None:
    net = shaped(family).eval()
    expected = net(**batch(net)).logits
    assert not read_first(net) and not read_last(net)
    assert torch.equal(net(**batch(net)).logits, expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_row_that_ends_in_the_padding_token_is_read_where_it_was(
    family: str, kernel: str
) -> None:
    """Without any padding beside it, so that there may be no mask."""
    net = shaped(family).eval()
    net.set_attn_implementation(kernel)
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
    expected = net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert read_last(net)
    found = net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_decoder_that_reads_another_position_keeps_them() -> None:
    net = shaped("llama").eval()
    net.score.register_forward_pre_hook(lambda m, args: (args[0].roll(1, 1).cumsum(1),))
    hooks = len(net.model._forward_pre_hooks)
    expected = net(**batch(net)).logits
    assert not read_last(net)
    assert len(net.model._forward_pre_hooks) == hooks
    assert torch.equal(net(**batch(net)).logits, expected)


def test_a_head_that_reads_every_position_keeps_them() -> None:
    net = shaped("bert").eval()
    net.bert.pooler.forward = lambda hidden: hidden.mean(1)
    expected = net(**batch(net)).logits
    assert not read_first(net)
    assert torch.equal(net(**batch(net)).logits, expected)


@pytest.mark.parametrize("family", nets.FAMILIES)
def test_adapters_in_the_last_block_are_used(tmp_path: Path, family: str) -> None:
    made = nets.context(nets.FAMILIES[family](tmp_path), nets.lora())
    net = nets.adapted(made)
    nets.steps(net, made)
    expected, before = nets.logits(net, made), nets.gradients(net, made)
    assert READ[family](net)
    torch.testing.assert_close(nets.logits(net, made), expected, atol=1e-5, rtol=1e-5)
    after = nets.gradients(net, made)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", nets.FAMILIES)
def test_training_does_it(tmp_path: Path, family: str) -> None:
    done = fitted.fit(fitted.context(nets.FAMILIES[family](tmp_path), FullFinetune()), epochs=1)
    assert "forward" in vars(blocks(done.module.net)[-1])
