"""Each way to attend is proven for packs on the network that trains, or refused in a sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from omegaconf import OmegaConf

from llmexp.errors import UserError
from llmexp.models import HFModel
from llmexp.nets.attention import check_here, complaints, runs_here
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


def test_a_family_without_it_is_one_sentence(tmp_path: Path) -> None:
    folder = tiny.gpt2(tmp_path / "net")
    model = HFModel(path=str(folder), attention="flex_attention")
    made = nets.context(folder, nets.lora(), nets.instruction())
    for load in (model.load, model.random):
        with pytest.raises(UserError, match=r"^model\.attention: .* no flex_attention for GPT2"):
            load(made.task.auto_class(), made.config)


@pytest.mark.parametrize("attention", ON_A_GPU)
def test_what_trained_on_a_gpu_predicts_anywhere(attention: str) -> None:
    """What is predicted is not packed, and the next machine may lack the package."""
    base = recorded_base({"base": {"path": "owner/name", "attention": attention}})
    assert base.attends() is None


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
