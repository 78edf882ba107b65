"""Each way to attend is proven for packs on the network that trains, or refused in a sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from llmexp.errors import UserError
from llmexp.hardware import settled
from llmexp.models import HFModel
from llmexp.nets.attention import check_here, complaints, no_flash, runs_here
from llmexp.nets.packing_proof import prove_packing
from llmexp.predict.predictors import recorded_base
from tests import nets, tiny
from tests.test_packing import FAMILIES, TASK, documents, in_order, loss, network

ROOT = Path(__file__).resolve().parents[1]
OFFERED = get_args(get_type_hints(HFModel)["attention"])
ON_A_GPU = ("flash_attention_2", "flex_attention")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run it")


def test_every_family_of_decoders_is_proven() -> None:
    """By `tests/test_packing.py`: packed logits, their gradient, and a document's strangers."""
    found = set()
    for path in (ROOT / "conf" / "model").glob("*.yaml"):
        model: Any = OmegaConf.load(path)
        if model.get("kind") == "decoder":
            found.add(model.get("family") or model.architecture.model_type)
    assert found and found <= set(FAMILIES)


def test_what_is_offered_is_proven_here_or_needs_a_gpu() -> None:
    assert set(OFFERED) == {"sdpa", "eager", "auto", *ON_A_GPU}
    for attention in ("sdpa", "eager", "auto"):
        assert complaints(attention, "float32", {"accelerator": "cpu"}) == []
        assert runs_here(attention)


@pytest.mark.parametrize("attention", ON_A_GPU)
def test_a_cpu_is_refused_before_anything_is_read(attention: str, tmp_path: Path) -> None:
    net, folder = tiny.llama(tmp_path / "net"), tmp_path / "run"
    words = ["hardware=cpu", "model=local", f"model.path={net}", f"+model.attention={attention}"]
    done = subprocess.run(
        [sys.executable, "run.py", *words, "data=pydocs_text", f"hydra.run.dir={folder}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2 and not folder.exists()
    said = done.stderr.strip()
    assert said.count("\n") == 0 and "Traceback" not in said
    assert f"model.attention: {attention}" in said and said.endswith("use model.attention=sdpa")


@no_gpu
@pytest.mark.parametrize("attention", ON_A_GPU)
def test_a_machine_without_a_gpu_is_refused(attention: str) -> None:
    with pytest.raises(UserError, match=r"GPU only.* use model\.attention=sdpa$"):
        check_here(attention)


def test_a_missing_package_and_a_dtype_that_flash_has_not(monkeypatch: Any) -> None:
    gpu: dict[str, Any] = {"accelerator": "cuda"}
    monkeypatch.setattr("llmexp.nets.attention.find_spec", lambda name: None)
    (said,) = complaints("flash_attention_2", "bfloat16", gpu)
    assert "pip install flash-attn" in said
    monkeypatch.setattr("llmexp.nets.attention.find_spec", lambda name: object())
    (said,) = complaints("flash_attention_2", "float32", gpu)
    assert "model.dtype=bfloat16" in said
    assert complaints("flash_attention_2", "float32", {**gpu, "precision": "bf16-mixed"}) == []
    assert complaints("flex_attention", "float32", gpu) == []


def a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
    """Torch says that there is one; nothing is computed on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "This GPU")
    monkeypatch.setattr("llmexp.nets.attention.find_spec", lambda name: object())


def test_packs_are_flash_attentions_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it is said why not: no GPU, an old one, no package, float32, a family without it."""
    llama, deberta = AutoConfig.for_model("llama"), AutoConfig.for_model("deberta-v2")
    gpu = {"accelerator": "cuda", "precision": "bf16-mixed"}

    def why(config: Any = llama, dtype: str = "bfloat16", **hardware: Any) -> str | None:
        auto_class = AutoModelForCausalLM if config is llama else AutoModelForMaskedLM
        return no_flash(auto_class, config, dtype, {**gpu, **hardware})

    if not torch.cuda.is_available():
        assert why() == "it needs a CUDA GPU"
    a_gpu(monkeypatch)
    assert why() is None
    assert why(accelerator="cpu") == "it needs a CUDA GPU"
    assert why(dtype="float32", precision="32-true") is not None
    assert why(deberta) == "transformers has none for deberta-v2"
    monkeypatch.setattr("llmexp.nets.attention.find_spec", lambda name: None)
    assert why() == "the package flash_attn is not installed"
    a_gpu(monkeypatch, (7, 5))
    assert why() == "This GPU is older than those that it is written for"


def test_auto_comes_to_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Flash for packs alone and compiled blocks on a GPU; elsewhere neither, and a note says so."""
    made = nets.context(tiny.llama(tmp_path / "net"), nets.lora(), nets.instruction())
    packing = replace(made.task, packing=True)
    model = replace(made.model, attention="auto", compile="auto", dtype="bfloat16")
    assert model.attends() is None

    def comes_to(task: Any, accelerator: str) -> tuple[Any, Any, list[str]]:
        made.examples.notes.clear()
        config = SimpleNamespace(hardware={"accelerator": accelerator, "precision": "bf16-mixed"})
        e: Any = SimpleNamespace(model=model, task=task, config=config, strategy=made.strategy)
        found = settled(e, made)
        return found.attends(), found.compile, list(made.examples.notes)

    attends, compiled, notes = comes_to(packing, "cpu")
    assert attends is None and compiled is False and len(notes) == 2
    assert all(note.startswith(("model.attention=auto", "model.compile=auto")) for note in notes)
    a_gpu(monkeypatch)
    monkeypatch.setattr("llmexp.nets.compilation.missing", lambda gpu: None)
    assert comes_to(packing, "cuda") == ("flash_attention_2", True, [])
    assert comes_to(made.task, "cuda") == (None, True, [])


def test_a_family_without_it_is_one_sentence(tmp_path: Path) -> None:
    folder = tiny.gpt2(tmp_path / "net")
    model = HFModel(path=str(folder), attention="flex_attention")
    made = nets.context(folder, nets.lora(), nets.instruction())
    for load in (model.load, model.random):
        with pytest.raises(UserError, match=r"^model\.attention: .* no flex_attention for GPT2"):
            load(made.task.auto_class(), made.config)


@no_gpu
def test_a_run_that_had_a_gpu_predicts_without_one() -> None:
    base = recorded_base({"base": {"path": "owner/name", "attention": "flash_attention_2"}})
    assert base.attention == "sdpa"


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles flex_attention with g++")
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt2"])
def test_flex_attention_keeps_packed_documents_apart(family: str) -> None:
    """Forwards only: torch has no backward pass of it on a CPU."""
    net = network(family, "flex_attention")
    packs, alone = in_order(documents(), 24)
    # With sizes that it does not know, torch 2.13 writes C++ for some CPUs that does not compile.
    fixed = torch._dynamo.config.patch(automatic_dynamic_shapes=False, recompile_limit=64)
    with torch.no_grad(), fixed:
        prove_packing(net, TASK)
        one = loss(net, packs).logits
        each = torch.cat([loss(net, [row]).logits for row in alone])
        plain = loss(network(family, "sdpa"), packs).logits
    torch.testing.assert_close(one, each, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one, plain, rtol=1e-5, atol=1e-5)
