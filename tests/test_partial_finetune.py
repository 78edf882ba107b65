"""The top blocks, the final norm and the head train; what is below stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmexp.errors import UserError
from llmexp.nets.architecture import blocks
from llmexp.strategies.partial_finetune import PartialFinetune
from tests import fitted, nets, tiny
from tests.test_prefix import SHAPES, shaped

FINAL_NORMS = {
    "gpt2": "transformer.ln_f",
    "llama": "model.norm",
    "mistral": "model.norm",
    "qwen2": "model.norm",
    "qwen3": "model.norm",
    "gemma3_text": "model.norm",
}


@pytest.mark.parametrize("family", SHAPES)
def test_exactly_the_top_trains(family: str) -> None:
    net = PartialFinetune(top_blocks=2).adapt(shaped(family), None)  # type: ignore[arg-type]
    states = [{p.requires_grad for p in block.parameters()} for block in blocks(net)]
    assert states == [{False}, {True}, {True}]
    assert not any(p.requires_grad for p in net.get_input_embeddings().parameters())
    head = getattr(net, "score", None) or net.classifier
    assert all(p.requires_grad for p in head.parameters())
    if family in FINAL_NORMS:
        norm = net.get_submodule(FINAL_NORMS[family])
        assert all(p.requires_grad for p in norm.parameters())


def test_more_blocks_than_there_are_is_refused_before_weights(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "net")
    (folder / "model.safetensors").unlink()
    made = fitted.context(folder, PartialFinetune(top_blocks=4))
    with pytest.raises(UserError, match=r"strategy\.top_blocks: 4 is more than the 3 blocks"):
        made.strategy.check_targets(made)
    made = fitted.context(folder, PartialFinetune(top_blocks=3))
    made.strategy.check_targets(made)


def test_what_is_below_is_bit_identical_after_training(tmp_path: Path) -> None:
    made = fitted.context(tiny.llama(tmp_path / "net"), PartialFinetune(top_blocks=1))
    net = nets.adapted(made)
    base = nets.frozen(net)
    moved = {n: p.detach().clone() for n, p in net.named_parameters() if p.requires_grad}
    fitted.fit(made, net=net)
    now = dict(net.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in base.items())
    assert not any(torch.equal(now[name], value) for name, value in moved.items())
