"""The loss of an output head in chunks is the loss of its logits, without the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from llmexp.strategies.full_finetune import FullFinetune
from llmexp.tasks import chunked_loss
from llmexp.tasks.base import IGNORE
from llmexp.tasks.token_loss import token_loss, whole_logits
from tests import fitted, nets, tiny


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some 900 logits are many: chunks of three positions of a vocabulary of 300."""
    monkeypatch.setattr(chunked_loss, "CHUNK", 900)


@pytest.fixture
def net(tmp_path: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path))


def batch(vocabulary: int, seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    ids = torch.randint(0, vocabulary, (4, 23))
    labels = torch.where(torch.rand(4, 23) < 0.6, ids.roll(-1, 1), IGNORE)
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    labels[1, 15:] = IGNORE
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(net: nn.Module, one: dict[str, Any], whole: bool) -> tuple[Tensor, Tensor]:
    net.zero_grad()
    loss = token_loss(net, one, whole=whole)
    assert (loss.logits is None) is not whole
    (loss.total * 0.5).backward()
    found = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    return loss.total.detach(), torch.cat(found)


@pytest.mark.parametrize("trained", ["everything", "not the head", "only the head"])
@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradients_are_those_of_the_logits(net: Any, trained: str, tied: bool) -> None:
    if tied:
        net.lm_head.weight = net.get_input_embeddings().weight
    head = {id(p) for p in net.lm_head.parameters()}
    for parameter in net.parameters():
        inside = id(parameter) in head
        parameter.requires_grad = trained == "everything" or inside is (trained == "only the head")
    one = batch(net.config.vocab_size)
    total, expected = gradients(net, one, whole=True)
    ours, found = gradients(net, one, whole=False)
    assert abs(ours - total) <= 1e-6 * total
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_a_bias_gets_its_gradient() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(16, 300), torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 300, (50,))
    named = [hidden, *head.parameters()]
    expected = torch.autograd.grad(
        nn.functional.cross_entropy(head(hidden), labels, reduction="sum"), named
    )
    total, _ = chunked_loss.chunked_cross_entropy(head, hidden, labels)
    for ours, theirs in zip(torch.autograd.grad(total, named), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6, rtol=1e-5)


def test_evaluation_counts_what_is_right_without_logits(net: Any) -> None:
    net.eval()
    one = batch(net.config.vocab_size)
    one["labels"][0, :5] = net(one["input_ids"]).logits[0, :5].argmax(-1)
    with torch.no_grad():
        whole, ours = token_loss(net, one, whole=True), token_loss(net, one)
    assert whole.logits is not None and ours.logits is None
    assert ours.right == (whole.logits.argmax(-1) == whole.labels).sum() >= 5
    assert torch.allclose(ours.total, whole.total, rtol=1e-6)


def test_autocast_is_kept(net: Any) -> None:
    one = batch(net.config.vocab_size)
    with torch.autocast("cpu", torch.bfloat16):
        total, expected = gradients(net, one, whole=True)
        ours, found = gradients(net, one, whole=False)
    assert torch.allclose(ours, total, rtol=5e-3)
    assert nn.functional.cosine_similarity(found, expected, dim=0) > 0.999


class Largest(TorchDispatchMode):
    """The most elements that any tensor had which was made inside."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return out


def test_no_tensor_is_of_the_size_of_the_logits() -> None:
    torch.manual_seed(0)
    head, labels = nn.Linear(4, 300), torch.randint(0, 300, (500,))
    hidden = torch.randn(500, 4, requires_grad=True)
    sizes = {}
    for positions in (100, 500):
        with Largest() as mode:
            found, truth = hidden[:positions], labels[:positions]
            chunked_loss.chunked_cross_entropy(head, found, truth)[0].backward()
        sizes[positions] = mode.elements
    assert sizes[500] <= max(hidden.numel(), head.weight.numel()) < 500 * 300 / 50
    with Largest() as mode:
        nn.functional.cross_entropy(head(hidden), labels).backward()
    assert mode.elements == 500 * 300


def test_no_network_makes_a_tensor_of_the_size_of_the_logits(net: Any) -> None:
    one = batch(net.config.vocab_size)
    one["labels"] = one["input_ids"]
    logits, sizes = one["labels"].numel() * net.config.vocab_size, {}
    token_loss(net, one)  # The first look at a network is another forward pass.
    for whole in (True, False):
        with Largest() as mode:
            token_loss(net, one, whole=whole).total.backward()
        sizes[whole] = mode.elements
    assert sizes[True] == logits and sizes[False] < logits / 2


def capped(vocabulary: int) -> Any:
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.1,
        pad_token_id=0,
    )
    return Gemma2ForCausalLM(config)


def test_a_family_that_caps_its_logits_keeps_them() -> None:
    loss = token_loss(capped(300), batch(300))
    assert loss.logits is not None and loss.logits.abs().max() <= 0.1


def test_a_run_whose_logits_are_whole_says_so_once(tmp_path: Any) -> None:
    words = tiny.tokenizer()
    for saved in (capped(len(words)), words):
        saved.save_pretrained(tmp_path / "capped")
    found = []
    for folder in (tmp_path / "capped", tiny.llama(tmp_path / "llama")):
        made = fitted.context(folder, FullFinetune(), nets.instruction(), attention="eager")
        fitted.fit(made)
        found.append([n for n in made.examples.notes if "not taken in chunks" in n])
    (said,), nothing = found
    assert "changes its logits after the output head" in said and not nothing


def test_the_random_stream_is_where_logits_would_have_left_it(tmp_path: Any) -> None:
    """The first look at a network moves nothing, or a resumed run would drop other units."""
    net = AutoModelForCausalLM.from_pretrained(tiny.gpt2(tmp_path), resid_pdrop=0.5).train()
    one, states = batch(net.config.vocab_size), []
    for whole in (True, False, False):
        torch.manual_seed(1)
        token_loss(net, one, whole=whole)
        states.append(torch.get_rng_state())
    assert all(torch.equal(states[0], other) for other in states[1:])


def test_an_adapter_on_the_head_keeps_its_logits(net: Any) -> None:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(net, LoraConfig(target_modules=["lm_head"]))
    assert token_loss(wrapped, batch(net.config.vocab_size)).logits is not None
    assert "no plain layer" in str(whole_logits(wrapped))
