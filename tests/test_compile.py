"""`model.compile`: blocks compiled in place train to the same numbers under the same names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llmexp.errors import UserError
from llmexp.nets import compilation
from llmexp.nets.architecture import blocks
from llmexp.strategies.partial_finetune import PartialFinetune
from tests import fitted, nets, tiny

CPU = {"accelerator": "cpu"}


def fit(folder: Path, strategy: Any, **model: Any) -> fitted.Fitted:
    torch._dynamo.reset()
    made = fitted.context(folder, strategy, fitted.texts(9), cache=False, **model)
    return fitted.fit(made, epochs=1)


@pytest.mark.long
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_compiled_blocks_train_to_the_same_losses(family: str, tmp_path: Path) -> None:
    folder = nets.FAMILIES[family](tmp_path / family)
    eager = fit(folder, nets.lora())
    compiled = fit(folder, nets.lora(), compile=True)
    assert all(b._compiled_call_impl is not None for b in blocks(compiled.module.net))
    assert compiled.losses == pytest.approx(eager.losses, abs=1e-5)
    assert compiled.module.state_dict().keys() == eager.module.state_dict().keys()
    found = compiled.module.test_metrics["test/loss"]
    assert found == pytest.approx(eager.module.test_metrics["test/loss"], abs=1e-5)


def test_only_blocks_that_are_trained_are_compiled_and_no_name_changes(tmp_path: Path) -> None:
    made = nets.context(tiny.bert(tmp_path / "bert", labels=3), PartialFinetune(top_blocks=1))
    net = nets.adapted(made)
    module = made.strategy.module(net, made)
    names = list(module.state_dict())
    compilation.compile_blocks(net, module.frozen)
    marked = [block._compiled_call_impl is not None for block in blocks(net)]
    assert marked == [False, False, True]
    assert list(module.state_dict()) == names


def test_a_compiler_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    compilation.check_here(False, CPU)
    with pytest.raises(UserError, match=r"model\.compile: .* a C\+\+ compiler .*compile=false"):
        compilation.check_here(True, CPU)


def test_auto_compiles_where_a_gpu_and_its_compiler_are(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert "not on a CPU" in str(compilation.no_compiler(torch.device("cpu")))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "This GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert "no kernels for This GPU" in str(compilation.no_compiler(gpu))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(compilation, "find_spec", lambda name: None)
    assert "triton" in str(compilation.no_compiler(gpu))
    monkeypatch.setattr(compilation, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "a C compiler" in str(compilation.no_compiler(gpu))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compilation.Path, "is_file", lambda path: True)
    assert compilation.no_compiler(gpu) is None


def test_python_headers_that_are_not_there_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compilation.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match=r"Python\.h .* python3-dev"):
        compilation.check_here(True, CPU)
