"""What `auto` comes to is settled where the network trains, told, kept, and undone for writing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmexp.modules import kernels
from llmexp.modules.kernels import Kernels
from llmexp.nets import attention
from llmexp.nets.attention import FLASH, no_flash
from llmexp.strategies.head_only import HeadOnly
from llmexp.strategies.partial_finetune import PartialFinetune
from tests import fitted, nets, tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Torch tells of one, and flash_attn and a compiler are there; nothing is computed on it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "This GPU")
    monkeypatch.setattr(attention, "find_spec", lambda name: object())
    monkeypatch.setattr(kernels, "no_compiler", lambda device: None)
    return monkeypatch


def of(folder: Path, strategy: Any, packing: bool, **model: Any) -> Kernels:
    """Of a small Llama whose attention and compilation are left to the machine."""
    made = nets.context(tiny.llama(folder / "net"), strategy, nets.instruction(), **model)
    made = replace(made, task=replace(made.task, packing=packing))
    module = made.strategy.module(nets.adapted(made), made)
    # Transformers asks for the package and the GPU once more.
    base = kernels.unwrapped(module.net)
    base._check_and_adjust_attn_implementation = lambda asked, **more: asked
    return module.kernels


AUTO = {"attention": "auto", "compile": "auto"}


def test_a_cpu_gets_neither_and_it_is_said(tmp_path: Path) -> None:
    found = of(tmp_path, nets.lora(), packing=True, **AUTO)
    remarks = found.settle(CPU, half=True)
    assert remarks == [
        "model.attention=auto: sdpa for packs: flash attention needs a CUDA GPU",
        "model.compile=auto: not compiled: not on a CPU unless asked, by model.compile=true",
    ]
    assert found.state() == {"attention": "sdpa", "compile": False}


def test_a_gpu_gets_both_and_writing_gets_neither(gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = of(tmp_path, nets.lora(), packing=True, **AUTO)
    assert found.settle(GPU, half=True) == [
        f"model.attention=auto: {FLASH} for packs",
        "model.compile=auto: trained blocks are compiled",
    ]
    assert found.state() == {"attention": FLASH, "compile": True}
    with found.as_loaded():
        assert found.attention == "sdpa"
    assert found.attention == FLASH
    found.put_away()
    assert found.attention == "sdpa"
    # Rows that are not packed stay as they are; what was asked for by name stays in training.
    assert of(tmp_path / "a", nets.lora(), packing=False, **AUTO).settle(GPU, half=True)[1:] == []
    asked = of(tmp_path / "b", nets.lora(), packing=True, attention="eager")
    assert asked.settle(GPU, half=True) == [] and asked.attention == "eager"


def test_stored_states_of_frozen_blocks_go_before_flash(
    gpu: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = of(tmp_path, PartialFinetune(top_blocks=1), packing=True, attention="auto")
    said = {}
    for enabled in (True, False):
        cache = replace(found.context.cache, enabled=enabled)
        found.context = replace(found.context, cache=cache)
        (said[enabled],) = found.settle(GPU, half=True)
    assert "sdpa for packs: states of frozen blocks are stored" in said[True]
    assert said[False] == f"model.attention=auto: {FLASH} for packs"


def test_why_packs_go_without_flash(gpu: pytest.MonkeyPatch) -> None:
    """No GPU, no 16 bits, a family without it, no package, an old GPU."""
    family = SimpleNamespace(model_type="deberta-v2")
    net = SimpleNamespace(_supports_flash_attn=True, config=family)
    assert no_flash(net, GPU, half=True) is None
    assert no_flash(net, CPU, half=True) == "flash attention needs a CUDA GPU"
    assert no_flash(net, GPU, half=False) == "flash attention computes in 16 bits"
    other = SimpleNamespace(_supports_flash_attn=False, config=family)
    assert no_flash(other, GPU, half=True) == "transformers has no flash attention for deberta-v2"
    gpu.setattr(attention, "find_spec", lambda name: None)
    assert no_flash(net, GPU, half=True) == "the package flash_attn is not installed"
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert no_flash(net, GPU, half=True) == "flash attention is not written for This GPU"


def test_a_run_resumed_on_another_machine_says_what_it_was_computed_by(tmp_path: Path) -> None:
    found = of(tmp_path, nets.lora(), packing=True, **AUTO)
    found.before = {"attention": FLASH, "compile": False}
    assert found.settle(CPU, half=True)[2:] == [
        f"resumed with attention sdpa after {FLASH}: the last bits may differ"
    ]
    found.before = found.state()
    assert len(found.settle(CPU, half=True)) == 2


def test_a_network_of_two_types_writes(tmp_path: Path) -> None:
    """A frozen body in bfloat16 under a head in float32: outside of a step the two do not meet."""
    made = fitted.context(
        tiny.llama(tmp_path / "net"), HeadOnly(), nets.instruction(), dtype="bfloat16"
    )
    done = fitted.fit(made, epochs=1)
    types = {parameter.dtype for parameter in done.module.net.parameters()}
    assert types == {torch.bfloat16, torch.float32}
    written = [answer["prediction"] for answer in done.module.answers]
    assert len(written) == len(made.examples.test) and all(isinstance(w, str) for w in written)
