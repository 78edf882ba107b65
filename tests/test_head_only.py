"""Only the head moves; everything else stays bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmexp.errors import UserError
from llmexp.nets.freezing import head_modules
from llmexp.strategies.head_only import HeadOnly
from tests import fitted, nets, tiny
from tests.test_prefix import shaped

HEADS = {
    "bert": {"bert.pooler.dense", "classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "roberta": {"classifier.dense", "classifier.out_proj"},
    "electra": {"classifier.dense", "classifier.out_proj"},
    "deberta-v2": {"pooler.dense", "classifier"},
    "mpnet": {"classifier.dense", "classifier.out_proj"},
    "gpt2": {"score"},
    "llama": {"score"},
    "gemma3_text": {"score"},
}


def trained(net: Any) -> set[str]:
    return {n.rpartition(".")[0] for n, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", HEADS)
def test_the_head_with_its_pooler_trains(family: str) -> None:
    net = HeadOnly().adapt(shaped(family), None)  # type: ignore[arg-type]
    assert trained(net) == HEADS[family]


@pytest.mark.parametrize("cache", [True, False])
def test_the_base_is_bit_identical_after_training(tmp_path: Path, cache: bool) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), HeadOnly(), cache=cache)
    net = nets.adapted(made)
    base, head = nets.frozen(net), {n: p.clone() for n, p in net.named_parameters()}
    fitted.fit(made, net=net)
    for name, value in net.named_parameters():
        assert torch.equal(value, base.get(name, value)), name
        assert value.requires_grad != torch.equal(value, head[name]), name


def test_frozen_parts_rest_and_the_head_does_not(tmp_path: Path) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), HeadOnly())
    module = made.strategy.module(nets.adapted(made), made)
    assert module.net.dropout.training and module.net.bert.pooler.training
    assert not any(m.training for m in module.net.bert.encoder.modules())
    assert not any(m.training for m in module.net.bert.embeddings.modules())


def test_an_untied_head_survives_saving(tmp_path: Path) -> None:
    """GPT-2 shares head and embeddings; what is exported must not share them again."""
    made = fitted.context(tiny.gpt2(tmp_path / "net"), HeadOnly(), nets.instruction())
    net = nets.adapted(made)
    embeddings = net.get_input_embeddings().weight
    assert net.lm_head.weight is not embeddings
    before = embeddings.clone()
    fitted.fit(made, net=net)
    assert torch.equal(embeddings, before) and not torch.equal(net.lm_head.weight, before)
    net.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.lm_head.weight, net.lm_head.weight)
    assert torch.equal(again.get_input_embeddings().weight, before)


def test_a_network_without_a_head_is_refused_with_a_reason() -> None:
    body = shaped("bert").bert
    with pytest.raises(UserError, match="no head"):
        head_modules(body)
