"""Gradients exactly where the strategy means them and none elsewhere, and what looks at neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmexp.doctor import examine, gradients
from llmexp.doctor.command import run as doctor
from llmexp.strategies.base import Strategy
from llmexp.strategies.full_finetune import FullFinetune
from llmexp.strategies.head_only import HeadOnly
from llmexp.strategies.lora import LoRA
from llmexp.strategies.partial_finetune import PartialFinetune
from tests import doctoring, runs
from tests.doctoring import ids, looked_at, of

Given = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return doctoring.models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def given(models: dict[str, list[str]], tmp_path: Path) -> Given:
    """An encoder that classifies, or a decoder that answers."""

    def posed(model: str) -> list[str]:
        data = (runs.classified if model == "bert" else runs.answered)(tmp_path / model)
        return [*models[model], *data]

    return posed


# Strategy and model -> which groups of parameters train, by the beginning of their names.
ADAPTED = {"adapters of blocks 0-2", "adapters of bert.pooler", "classifier"}
WHOLE = {"bert.embeddings", "blocks 0-2", "bert.pooler", "classifier"}
DECODER = {"model.embed_tokens", "blocks 0-2", "model.norm", "lm_head"}
TRAINED = {
    ("full_finetune", "bert"): WHOLE,
    ("head_only", "bert"): {"bert.pooler", "classifier"},
    ("partial_finetune", "bert"): {"blocks 1-2", "bert.pooler", "classifier"},
    ("lora", "bert"): ADAPTED,
    ("qlora", "bert"): ADAPTED,
    ("feature_based", "bert"): {"classifier"},
    ("from_scratch", "bert"): WHOLE,
    ("zero_shot", "bert"): set(),
    ("few_shot", "bert"): set(),
    ("full_finetune", "llama"): DECODER,
    ("head_only", "llama"): {"lm_head"},
    ("partial_finetune", "llama"): {"blocks 1-2", "model.norm", "lm_head"},
    ("lora", "llama"): {"adapters of blocks 0-2"},
    ("qlora", "llama"): {"adapters of blocks 0-2"},
    ("from_scratch", "llama"): DECODER,
    ("zero_shot", "llama"): set(),
    ("few_shot", "llama"): set(),
}
FINDINGS = {"frozen", "gradient_elsewhere", "no_gradient", "changed_elsewhere", "no_step"}


@pytest.mark.parametrize(("strategy", "model"), TRAINED)
def test_gradients_are_where_they_are_meant_to_be(given: Given, strategy: str, model: str) -> None:
    """By the names above, by what the strategy declares, and by a step: all three agree."""
    report = looked_at(*given(model), f"strategy={strategy}")
    section = report.sections["training"]
    assert section["declared"] and not FINDINGS & set(ids(report))
    trained = {row["group"] for row in section["parameters"] if row["trained"]}
    assert trained == TRAINED[strategy, model]
    found = section["gradients"]
    assert found["meant"] == found["trained"]
    if not trained:
        assert found["meant"] == 0 and "loss" not in found
        return
    assert found["elsewhere"] == found["changed_elsewhere"] == found["without_gradient"] == []
    assert found["with_gradient"] + found["silent_by_design"] == found["trained"] > 0
    # Of an adapter A and B only B moves at first; nothing else is silent.
    adapters = section["adapters"]
    assert found["silent_by_design"] == (adapters["adapted"] if adapters else 0)


def changed(monkeypatch: pytest.MonkeyPatch, cls: type[Strategy], change: Any) -> None:
    """A strategy whose `adapt` does what it should, and then something else."""
    adapt = cls.adapt

    def more(self: Any, net: Any, context: Any) -> Any:
        net = adapt(self, net, context)
        change(net)
        return net

    monkeypatch.setattr(cls, "adapt", more)


# A frozen tensor of an encoder or a decoder, by a part of its name.
BELOW = {"bert": "layer.0.output.dense.weight", "llama": "layers.0.mlp.up_proj.weight"}


@pytest.mark.parametrize("model", BELOW)
@pytest.mark.parametrize("cls", [HeadOnly, PartialFinetune, LoRA])
@pytest.mark.parametrize("loaded", [True, False])
def test_a_tensor_that_is_not_frozen_is_a_failure(
    given: Given, monkeypatch: pytest.MonkeyPatch, cls: type[Strategy], model: str, loaded: bool
) -> None:
    """Also where the network is too large to be loaded, by its shape alone."""
    if not loaded:
        monkeypatch.setitem(gradients.LARGEST, "cpu", 10)

    def unfreeze(net: Any) -> None:
        for name, parameter in net.named_parameters():
            if BELOW[model].replace(".weight", "") in name and name.endswith("weight"):
                parameter.requires_grad_("lora_" in name or parameter.is_floating_point())

    changed(monkeypatch, cls, unfreeze)
    name = {HeadOnly: "head_only", PartialFinetune: "partial_finetune", LoRA: "lora"}[cls]
    report = looked_at(*given(model), f"strategy={name}")
    found = of(report, "gradient_elsewhere")
    assert found.level == "fails" and report.exit_code == 2
    assert (
        found.message.startswith("1 tensors") and BELOW[model].split(".weight")[0] in found.message
    )


@pytest.mark.parametrize("model", BELOW)
def test_a_strategy_that_forgets_to_freeze_is_a_failure(
    given: Given, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(HeadOnly, "adapt", Strategy.adapt)
    report = looked_at(*given(model), "strategy=head_only")
    found = report.sections["training"]["gradients"]
    assert len(found["trained_though_not_meant"]) == found["trained"] - found["meant"] > 10
    assert found["elsewhere"] and of(report, "gradient_elsewhere").level == "fails"


@pytest.mark.parametrize(
    ("cls", "strategy", "part"),
    [
        (FullFinetune, "full_finetune", "layer.1."),
        (HeadOnly, "head_only", "classifier.bias"),
        (PartialFinetune, "partial_finetune", "layer.2."),
        (LoRA, "lora", "layer.1.output.dense.lora_B"),
    ],
)
def test_a_tensor_that_is_frozen_though_it_should_train_is_a_failure(
    given: Given, monkeypatch: pytest.MonkeyPatch, cls: type[Strategy], strategy: str, part: str
) -> None:
    frozen: list[str] = []

    def freeze(net: Any) -> None:
        names = [n for n, p in net.named_parameters() if part in n and p.requires_grad]
        frozen.append(names[-1])
        net.get_parameter(names[-1]).requires_grad_(False)

    changed(monkeypatch, cls, freeze)
    report = looked_at(*given("bert"), f"strategy={strategy}")
    found = of(report, "frozen")
    assert found.level == "fails" and found.message.endswith(f"are frozen: {frozen[0]}")
    assert "gradient_elsewhere" not in ids(report)


def test_a_trained_tensor_without_a_gradient_is_named(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unused(net: Any) -> None:
        net.unused = torch.nn.Linear(2, 2)

    changed(monkeypatch, FullFinetune, unused)
    report = looked_at(*given("bert"), "strategy=full_finetune")
    found = report.sections["training"]["gradients"]
    assert found["without_gradient"] == ["unused.bias", "unused.weight"]
    assert "unused.bias" in of(report, "no_gradient").message


@pytest.mark.parametrize("kind", ["bias", "buffer"])
def test_a_frozen_tensor_that_a_step_changes_is_a_failure(
    given: Given, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Neither a gradient nor an optimizer is needed to change a weight."""

    def drifting(net: Any) -> None:
        layer = net.bert.encoder.layer[0].output.dense
        layer.register_buffer("seen", torch.zeros(1))
        tensor = layer.bias if kind == "bias" else layer.seen

        def drift(*_: Any) -> None:
            tensor.data.add_(1e-3)

        net.classifier.register_forward_hook(drift)

    changed(monkeypatch, HeadOnly, drifting)
    report = looked_at(*given("bert"), "strategy=head_only")
    found = of(report, "changed_elsewhere")
    name = "bias" if kind == "bias" else "seen"
    assert found.level == "fails" and found.message.startswith("one step changed 1 tensors")
    assert found.message.endswith(f"bert.encoder.layer.0.output.dense.{name}")


def test_a_strategy_that_declares_nothing_is_not_judged(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeadOnly, "meant", Strategy.meant)
    report = looked_at(*given("bert"), "strategy=head_only")
    section = report.sections["training"]
    assert not section["declared"] and not FINDINGS & set(ids(report))
    assert section["gradients"]["with_gradient"] == section["gradients"]["trained"] > 0


@pytest.mark.parametrize("group", ["hardware", "+trainer"])
def test_the_step_is_made_in_the_precision_of_the_run(
    given: Given, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    seen: set[bool] = set()

    def watched(net: Any) -> None:
        def note(*_: Any) -> None:
            seen.add(torch.is_autocast_enabled("cpu"))

        net.register_forward_hook(note)

    changed(monkeypatch, FullFinetune, watched)
    for precision, autocast in (("bf16-mixed", True), ("32-true", False)):
        seen.clear()
        looked_at(*given("bert"), "strategy=full_finetune", f"{group}.precision={precision}")
        assert seen == {autocast}


def test_an_accelerator_that_is_not_here_fails_and_the_rest_is_looked_at(given: Given) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    report = looked_at(*given("bert"), "strategy=head_only", "hardware.accelerator=cuda")
    assert ids(report)[0] == "hardware" and report.exit_code == 2
    assert report.sections["training"]["gradients"]["with_gradient"] > 0


def test_what_is_too_large_for_a_step_is_no_ok(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gradients.LARGEST, "cpu", 10)
    report = looked_at(*given("llama"), "strategy=lora")
    assert report.verdict == "warning" and of(report, "no_step").fix is None
    assert report.sections["training"]["gradients"]["meant"] > 0
    assert "no_step" not in ids(looked_at(*given("bert"), "strategy=zero_shot"))


# A function that breaks -> the stage that is named.
BREAKING = {
    "experiment": (examine, "dead_knobs"),
    "data": (examine, "overlap"),
    "model": (gradients, "network"),
    "training": (gradients, "one_step"),
}


@pytest.mark.parametrize("stage", BREAKING)
def test_a_stage_that_breaks_is_a_finding(
    given: Given, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    """No traceback: JSON as ever, the stage by its name, the other stages, and exit code 2."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a broken library")

    monkeypatch.setattr(*BREAKING[stage], broken)
    assert doctor([*given("bert"), "strategy=head_only", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    found = next(f for f in said["findings"] if f["id"] == stage)
    assert said["verdict"] == "fails" and found["fix"] is None
    assert found["message"].startswith(f"the stage {stage} broke: ZeroDivisionError: a broken")
    assert stage == "data" or said["rows"]["train"]["rows"] > 0
    assert doctor([*given("bert"), "strategy=head_only"]) == 2
    assert f"the stage {stage} broke" in capsys.readouterr().out
