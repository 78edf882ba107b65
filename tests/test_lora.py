"""The algebra of low-rank adapters, on every family and on both kinds of task."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import Linear
from transformers import AutoConfig, AutoModelForSequenceClassification, BertModel

from llmexp.errors import UserError
from llmexp.nets.architecture import empty_network, linear_paths, new_head_names, unwrapped
from llmexp.nets.fused_lora import Fused
from llmexp.strategies.base import Strategy
from llmexp.strategies.full_finetune import FullFinetune
from tests import nets, tiny
from tests.exact import awaken, distance

CASES = [("bert", "classification"), ("gpt2", "instruction"), ("llama", "classification")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make(root / name) for name, make in nets.FAMILIES.items()}


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> tuple[Path, Any]:
    family, task = request.param
    return checkpoints[family], getattr(nets, task)()


def test_all_linear_is_every_linear_layer_but_the_head(case: tuple[Path, Any]) -> None:
    made = nets.context(case[0], nets.lora(), case[1])
    net = nets.adapted(made)
    with_adapter = {n for n, m in net.get_base_model().named_modules() if hasattr(m, "lora_A")}
    plain = made.strategy.load(made)
    assert with_adapter == set(linear_paths(plain))
    assert len(with_adapter) >= 3 * 4
    heads = new_head_names(plain)
    assert not any(name.startswith(tuple(heads)) for name in with_adapter if heads)
    assert "lm_head" not in with_adapter


def test_what_is_trained_is_the_adapters_and_a_new_head(case: tuple[Path, Any]) -> None:
    made = nets.context(case[0], nets.lora(), case[1])
    net = nets.adapted(made)
    kinds = {
        "head" if "modules_to_save" in n else "adapter" if "lora_" in n else n
        for n, p in net.named_parameters()
        if p.requires_grad
    }
    assert kinds == ({"adapter", "head"} if made.examples.labels else {"adapter"})
    assert set(nets.gradients(net, made)) == {
        n for n, p in net.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_an_adapter_that_adds_itself_computes_what_peft_computes(
    case: tuple[Path, Any], dropout: float
) -> None:
    """The loss and every gradient, with what peft does in passes of their own."""
    made = nets.context(case[0], nets.lora(dropout=dropout), case[1])
    net = nets.adapted(made)
    awaken(net)
    fused = [module for module in net.modules() if isinstance(module, Fused)]
    assert bool(fused) == (case[0].name != "gpt2")  # whose layers are no nn.Linear
    found = []
    for kind in (type(fused[0]) if fused else Linear, Linear):
        for module in fused:
            module.__class__ = kind
        torch.manual_seed(0)
        loss = made.task.loss(net, nets.batch(made)).total
        net.zero_grad()
        loss.backward()
        found.append((loss, {n: p.grad for n, p in net.named_parameters() if p.requires_grad}))
    (loss, gradients), (wanted, reference) = found
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    assert distance(gradients, reference) < 1e-5


def test_an_untrained_adapter_is_the_identity(case: tuple[Path, Any]) -> None:
    for changes in ({}, {"rslora": True}, {"dora": True}):
        made = nets.context(case[0], nets.lora(**changes), case[1])
        net = nets.adapted(made)
        before = nets.logits(net, made)
        with net.disable_adapter():
            torch.testing.assert_close(before, nets.logits(net, made), atol=1e-5, rtol=0)


def test_steps_leave_the_base_bit_identical_and_move_the_answer(case: tuple[Path, Any]) -> None:
    made = nets.context(case[0], nets.lora(), case[1])
    net = nets.adapted(made)
    base, answer = nets.frozen(net), nets.logits(net, made)
    nets.steps(net, made)
    assert all(torch.equal(value, nets.frozen(net)[name]) for name, value in base.items())
    assert (nets.logits(net, made) - answer).abs().max() > 1e-3


def test_a_merge_is_base_plus_delta_and_merging_twice_is_merging_once(
    case: tuple[Path, Any],
) -> None:
    made = nets.context(case[0], nets.lora(rslora=True), case[1])
    net = nets.adapted(made)
    nets.steps(net, made)
    answer = nets.logits(net, made)
    layer = next(m for m in net.modules() if hasattr(m, "lora_A"))
    wanted = layer.get_base_layer().weight + layer.get_delta_weight("default")
    net.merge_adapter()
    torch.testing.assert_close(layer.get_base_layer().weight, wanted)
    net.merge_adapter()
    torch.testing.assert_close(layer.get_base_layer().weight, wanted)
    torch.testing.assert_close(nets.logits(net, made), answer, atol=1e-5, rtol=1e-5)
    net.unmerge_adapter()
    whole = net.merge_and_unload()
    torch.testing.assert_close(nets.logits(whole, made), answer, atol=1e-5, rtol=1e-5)


def test_the_scale_is_alpha_over_rank_or_over_its_root(checkpoints: dict[str, Path]) -> None:
    for rslora, wanted in ((False, 8 / 4), (True, 8 / math.sqrt(4))):
        net = nets.adapted(nets.context(checkpoints["bert"], nets.lora(rslora=rslora)))
        scales = {m.scaling["default"] for m in net.modules() if hasattr(m, "lora_A")}
        assert scales == {wanted}


def test_dora_trains_a_magnitude_beside_the_direction(checkpoints: dict[str, Path]) -> None:
    made = nets.context(checkpoints["llama"], nets.lora(dora=True), nets.instruction())
    named = [n for n in nets.gradients(nets.adapted(made), made) if "magnitude" in n]
    assert len(named) == len(linear_paths(made.strategy.load(made)))


@pytest.mark.parametrize("family", list(nets.FAMILIES))
def test_layers_restricts_adapters_to_the_top_blocks(
    family: str, checkpoints: dict[str, Path]
) -> None:
    made = nets.context(checkpoints[family], nets.lora(layers=1))
    net = nets.adapted(made)
    touched = {n for n, m in net.named_modules() if hasattr(m, "lora_A")}
    assert touched
    # Three blocks: the top one is number 2; a pooler above the blocks is in none of them.
    assert all(".2." in name for name in touched)
    deep = nets.context(checkpoints[family], nets.lora(layers=9))
    with pytest.raises(UserError, match=r"strategy\.layers: 9 is more than the 3 blocks"):
        deep.strategy.check_targets(deep)


def test_names_that_miss_are_listed_before_any_weight_is_read(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny.bert(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    strategy = nets.lora(target_modules=["query", "valu", "classifier"])
    with pytest.raises(UserError) as error:
        strategy.check_targets(nets.context(folder, strategy))
    said = str(error.value)
    assert "valu, classifier match no linear layer" in said
    assert "dense, key, query, value" in said
    assert "did you mean value?" in said
    nets.lora(target_modules=["query", "attention.output.dense"]).check_targets(
        nets.context(checkpoints["bert"], strategy)
    )


def test_a_longer_name_tells_layers_of_one_name_apart(checkpoints: dict[str, Path]) -> None:
    strategy = nets.lora(target_modules=["attention.output.dense"])
    net = nets.adapted(nets.context(checkpoints["bert"], strategy))
    touched = [n for n, m in net.named_modules() if hasattr(m, "lora_A")]
    assert len(touched) == 3
    assert all(name.endswith("attention.output.dense") for name in touched)


@pytest.mark.parametrize(
    ("family", "heads", "shape"),
    [
        ("roberta", ["classifier"], {"num_hidden_layers": 2, "intermediate_size": 64}),
        ("distilbert", ["pre_classifier", "classifier"], {"n_layers": 2, "hidden_dim": 64}),
    ],
)
def test_a_head_of_several_layers_is_trained_whole(
    family: str, heads: list[str], shape: dict[str, int], tmp_path: Path
) -> None:
    names = {"roberta": "hidden_size", "distilbert": "dim"}
    config = AutoConfig.for_model(
        family, vocab_size=300, num_labels=3, pad_token_id=0, **{names[family]: 32}, **shape
    )
    config.num_attention_heads = 4
    net = AutoModelForSequenceClassification.from_config(config)
    net.save_pretrained(tmp_path / "net")
    tiny.tokenizer(bert=True).save_pretrained(tmp_path / "net")
    made = nets.context(tmp_path / "net", nets.lora())
    adapted = nets.adapted(made)
    whole = {n for n, p in adapted.named_parameters() if p.requires_grad and "lora_" not in n}
    expected = {f"{h}.{n}" for h in heads for n, _ in net.get_submodule(h).named_parameters()}
    plain = {n.replace("modules_to_save.default.", "").split("base_model.model.")[1] for n in whole}
    assert plain == expected
    with_adapter = {n for n, m in adapted.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert not any(name.startswith(tuple(heads)) for name in with_adapter)


def test_what_the_checkpoint_lacks_is_trained_whole(tmp_path: Path) -> None:
    whole = BertModel.from_pretrained(tiny.bert(tmp_path / "whole"))
    bare = BertModel(whole.config, add_pooling_layer=False)
    bare.save_pretrained(tmp_path / "bare")
    tiny.tokenizer(bert=True).save_pretrained(tmp_path / "bare")
    for strategy in (nets.lora(), nets.qlora()):
        net = nets.adapted(nets.context(tmp_path / "bare", strategy))
        pooler = net.get_base_model().bert.pooler.dense
        assert isinstance(pooler.modules_to_save["default"], torch.nn.Linear)
        assert all(p.requires_grad for p in pooler.modules_to_save.parameters())


@pytest.mark.parametrize(
    "strategy", [nets.lora(), nets.qlora(), FullFinetune()], ids=lambda s: type(s).__name__
)
def test_recomputed_activations_give_the_same_gradients(
    strategy: Strategy, case: tuple[Path, Any]
) -> None:
    found = []
    for checkpointing in (False, True):
        made = nets.context(case[0], strategy, case[1], gradient_checkpointing=checkpointing)
        net = nets.adapted(made)
        calls = []
        inner = unwrapped(net).get_submodule(linear_paths(empty_network(made))[0])
        inner.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        found.append(nets.gradients(net, made))
        # Recomputing is visible: the block's layers run a second time in the backward pass.
        assert len(calls) == (2 if checkpointing else 1)
        if checkpointing:
            assert net.config.use_cache is False
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=1e-5)
