"""A training step of a language model asks the device for nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmexp.modules.memory import cut
from tests import fitted, nets, tiny

WAITS = {torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default}
OURS = str(Path(__file__).resolve().parents[1] / "llmexp")


class Asked(TorchDispatchMode):
    """Functions of ours that called for what only the device knows."""

    def __init__(self) -> None:
        super().__init__()
        self.by: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func is torch.ops.aten.index.Tensor and any(
            at is not None and at.dtype == torch.bool for at in args[1]
        )
        if masks or func in WAITS:
            self.by += caller()
        return func(*args, **(kwargs or {}))


def caller() -> list[str]:
    """The innermost function that is neither torch's nor this file's, if it is ours."""
    frame: Any = sys._getframe(2)
    while "/torch/" in (file := frame.f_code.co_filename) or file == __file__:
        frame = frame.f_back
    return [frame.f_code.co_qualname] if file.startswith(OURS) else []


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_training_step_asks_the_device_for_nothing(tmp_path: Path, family: str) -> None:
    made = fitted.context(nets.FAMILIES[family](tmp_path), nets.lora(), nets.instruction())
    net = nets.adapted(made)
    module = made.strategy.module(net, made)
    with Asked() as asked:
        module.loss(nets.batch(made)).total.backward()
    # Collating is on the host.
    assert set(asked.by) == {"flat"}
    batch = nets.batch(made)
    with Asked() as asked:
        loss = module.loss(batch)
        loss.total.backward()
        module.window.add(loss)
    assert asked.by == []


def test_a_part_of_a_batch_counts_anew(tmp_path: Path) -> None:
    made = fitted.context(tiny.llama(tmp_path), nets.lora(), nets.instruction())
    net, batch = nets.adapted(made), nets.batch(made)
    whole = made.task.loss(net, batch)
    parts = [made.task.loss(net, part) for part in cut(batch, 3)]
    assert len(parts) == 3 and sum(part.count for part in parts) == whole.count
    total = torch.stack([part.total for part in parts]).sum()
    torch.testing.assert_close(total, whole.total, rtol=1e-6, atol=1e-6)
