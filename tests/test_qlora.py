"""Adapters on four bits: what is quantised stays as it was, what is trained is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from llmexp.errors import UserError
from llmexp.models import HFModel
from llmexp.nets import dequantization
from llmexp.nets.architecture import linear_paths
from llmexp.strategies import qlora as qlora_module
from tests import nets, tiny

CASES = [("bert", "classification"), ("gpt2", "instruction"), ("llama", "classification")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make(root / name) for name, make in nets.FAMILIES.items()}


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> tuple[Path, Any]:
    family, task = request.param
    return checkpoints[family], getattr(nets, task)()


def quantized(net: Any) -> dict[str, bnb.nn.Params4bit]:
    return {n: p for n, p in net.named_parameters() if isinstance(p, bnb.nn.Params4bit)}


def test_every_linear_layer_of_the_backbone_is_in_4_bits_and_the_head_is_not(
    case: tuple[Path, Any],
) -> None:
    made = nets.context(case[0], nets.qlora(), case[1])
    net = made.strategy.load(made)
    whole = nets.context(case[0], nets.lora(), case[1])
    backbone = linear_paths(whole.strategy.load(whole))
    assert {name.removesuffix(".weight") for name in quantized(net)} == set(backbone)
    heads = [m for n, m in net.named_children() if n in ("classifier", "score", "lm_head")]
    assert [type(head) for head in heads] == [nn.Linear]
    assert heads[0].weight.dtype == torch.float32


def test_gradients_reach_adapters_and_head_and_nothing_else(case: tuple[Path, Any]) -> None:
    made = nets.context(case[0], nets.qlora(), case[1])
    net = nets.adapted(made)
    found = nets.gradients(net, made)
    assert found.keys() == {n for n, p in net.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in found)
    # B starts at zero, so A's first gradient is zero; B's and the head's are not.
    moving = [name for name in found if "lora_A" not in name]
    assert all(found[name].abs().max() > 0 for name in moving)


def test_steps_and_evaluations_leave_the_base_bit_identical(case: tuple[Path, Any]) -> None:
    made = nets.context(case[0], nets.qlora(), case[1])
    net = nets.adapted(made)
    before = nets.frozen(net)
    scales = {n: p.quant_state.absmax.clone() for n, p in quantized(net).items()}
    for _ in range(2):
        nets.steps(net, made, count=2)
        nets.logits(net, made)
    assert quantized(net)
    after = nets.frozen(net)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.equal(s, quantized(net)[n].quant_state.absmax) for n, s in scales.items())


def test_an_evaluation_does_not_change_the_gradients_that_follow(case: tuple[Path, Any]) -> None:
    """bitsandbytes would answer in bfloat16 from then on where the CPU has avx512_bf16."""
    made = nets.context(case[0], nets.qlora(), case[1])
    net = nets.adapted(made)
    before = nets.gradients(net, made)
    with torch.inference_mode():
        net.eval()
        made.task.loss(net, nets.batch(made))
    after = nets.gradients(net, made)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_training_and_evaluation_give_the_same_answer(case: tuple[Path, Any]) -> None:
    made = nets.context(case[0], nets.qlora(), case[1], dropout=0.0)
    net = nets.adapted(made)
    net.train()
    trained = made.task.loss(net, nets.batch(made)).logits
    torch.testing.assert_close(nets.logits(net, made), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_the_settings_arrive(
    quant_type: str, double_quant: bool, checkpoints: dict[str, Path]
) -> None:
    strategy = nets.qlora(
        quant_type=quant_type, double_quant=double_quant, compute_dtype="bfloat16"
    )
    net = strategy.load(nets.context(checkpoints["llama"], strategy))
    layer = net.model.layers[0].mlp.up_proj
    assert layer.weight.quant_state.quant_type == quant_type
    assert layer.weight.quant_state.nested is double_quant
    assert layer.compute_dtype == torch.bfloat16


def test_auto_computes_in_float32_on_a_cpu(checkpoints: dict[str, Path]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    made = nets.context(checkpoints["bert"], nets.qlora(compute_dtype="auto"))
    net = made.strategy.load(made)
    assert {m.compute_dtype for m in net.modules() if hasattr(m, "compute_dtype")} == {
        torch.float32
    }


def _says_gptq(folder: Path) -> Path:
    """A checkpoint whose config says that GPTQ has quantised it."""
    tiny.llama(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_gptq_checkpoint_names_the_package_it_needs(tmp_path: Path) -> None:
    model = HFModel(path=str(_says_gptq(tmp_path / "gptq")))
    task, _ = nets.instruction()
    for strategy in (nets.qlora(), nets.lora()):
        (complaint,) = strategy.check(model, task, None)
        assert "quantised with gptq, which needs the package gptqmodel" in complaint
        made = nets.context(tmp_path / "gptq", strategy, nets.instruction())
        with pytest.raises(UserError, match="pip install gptqmodel"):
            strategy.check_targets(made)


def test_a_checkpoint_quantised_already_is_loaded_as_it_is(tmp_path: Path) -> None:
    """With the one method whose kernels run on every CPU."""
    made = nets.context(tiny.llama(tmp_path / "whole"), nets.qlora(), nets.instruction())
    made.strategy.load(made).save_pretrained(tmp_path / "quantised")
    tiny.tokenizer().save_pretrained(tmp_path / "quantised")
    # Settings that would show if they were applied to it a second time.
    strategy = nets.qlora(quant_type="fp4", double_quant=False)
    again = nets.context(tmp_path / "quantised", strategy, nets.instruction())
    assert strategy.check(again.model, again.task, None) == []
    strategy.check_targets(again)
    net = nets.adapted(again)
    assert {p.quant_state.quant_type for p in quantized(net).values()} == {"nf4"}
    before = nets.logits(net, again)
    nets.steps(net, again)
    assert not torch.equal(before, nets.logits(net, again))
    (complaint,) = nets.qlora(merge=True).check(again.model, again.task, None)
    assert "strategy.merge" in complaint


def test_without_bitsandbytes_it_says_what_to_install(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlora_module, "find_spec", lambda name: None)
    model = HFModel(path=str(checkpoints["bert"]))
    (complaint,) = nets.qlora().check(model, nets.classification()[0], None)
    assert "pip install bitsandbytes" in complaint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dequantised_base_computes_bit_for_bit_the_same(
    case: tuple[Path, Any], dtype: str
) -> None:
    found, outputs = [], []
    for how in ("never", "always"):
        strategy = nets.qlora(dequantize=how, compute_dtype=dtype)
        made = nets.context(case[0], strategy, case[1])
        net = nets.adapted(made)
        assert bool(quantized(net)) is (how == "never")
        found.append(nets.gradients(net, made))
        nets.steps(net, made, count=2)
        outputs.append(nets.logits(net, made))
    assert torch.equal(*outputs)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("half", [0.9, 1.1])
def test_auto_dequantises_where_half_of_the_free_memory_holds_it(
    half: float, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = nets.context(checkpoints["llama"], nets.qlora(dequantize="never"))
    needed = dequantization.needed_bytes(made.strategy.load(made))
    whole = nets.context(checkpoints["llama"], nets.lora())
    loaded = whole.strategy.load(whole)
    paths = linear_paths(loaded)
    assert needed == 4 * sum(loaded.get_submodule(path).weight.numel() for path in paths)
    monkeypatch.setattr(dequantization, "free_bytes", lambda: 2 * half * needed)
    made = nets.context(checkpoints["llama"], nets.qlora(dequantize="auto"))
    assert bool(quantized(made.strategy.load(made))) is (half < 1)
