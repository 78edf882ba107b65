"""What a run says that it cost: money and energy, operations, and the loss of single rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from llmexp.compare.arms import arms
from llmexp.compare.command import find
from llmexp.compare.evidence import evidence
from llmexp.config import Rates
from llmexp.jobs.price import charged_seconds, estimated_flops, weights
from llmexp.nets.last_block import read_first
from llmexp.strategies.partial_finetune import PartialFinetune
from llmexp.tasks.base import Encoded
from tests import tiny
from tests.runs import answered, classified, finished, rows, written
from tests.test_prefix import shaped


def test_an_hour_costs_what_an_hour_costs() -> None:
    assert Rates(per_hour=2.5, watts=400.0).priced(7200) == {"money": 5.0, "energy_kwh": 0.8}
    assert Rates().priced(7200) == {"money": None, "energy_kwh": None}
    assert Rates(per_hour=0.0, watts=0.0).priced(1) == {"money": 0.0, "energy_kwh": 0.0}


def test_cached_features_are_charged_once() -> None:
    """With a cold cache the seconds are in the total already."""
    cold = {"total_seconds": 50.0, "prefix_seconds": 30.0, "spared_seconds": 0.0}
    half = {"total_seconds": 45.0, "prefix_seconds": 30.0, "spared_seconds": 5.0}
    warm = {"total_seconds": 20.0, "prefix_seconds": 30.0, "spared_seconds": 30.0}
    assert charged_seconds(cold) == charged_seconds(half) == charged_seconds(warm) == 50.0


@pytest.mark.parametrize("strategy", ["feature_based", "head_only"])
def test_another_test_set_is_charged_for_the_cached_train_features(
    strategy: str, tmp_path: Path
) -> None:
    common = [*classified(tmp_path), "model=local", f"model.path={tiny.bert(tmp_path / 'n')}"]
    common += [f"strategy={strategy}", f"cache.dir={tmp_path / 'cache'}"]
    first = finished(tmp_path / "first", *common)["cost"]
    other = [o for o in common if not o.startswith("data.test=")]
    other.append(f"data.test={rows(tmp_path / 'other.jsonl', 7)}")
    second = finished(tmp_path / "second", *other)["cost"]
    assert first["spared_seconds"] == 0 and not second["cache_hit"]
    assert 0 < second["spared_seconds"] < second["prefix_seconds"]
    charged = second["total_seconds"] + second["spared_seconds"]
    assert charged_seconds(second) == pytest.approx(charged)


def decoder(folder: Path) -> list[str]:
    return ["model=local", f"model.path={tiny.gpt2(folder / 'net')}"]


def test_a_run_carries_its_price(tmp_path: Path) -> None:
    overrides = [*classified(tmp_path), "model=local", f"model.path={tiny.bert(tmp_path / 'n')}"]
    overrides += ["cost.per_hour=3.6", "cost.watts=100", "strategy=full_finetune"]
    cost = finished(tmp_path / "run", *overrides)["cost"]
    seconds = cost["total_seconds"]
    assert cost["money"] == pytest.approx(3.6 * seconds / 3600)
    assert cost["energy_kwh"] == pytest.approx(0.1 * seconds / 3600)
    # All is trained: six operations for each token and each weight but those of embeddings.
    assert 0 < cost["estimated_flops"] < 6 * cost["tokens_trained"] * cost["total_parameters"]


class Stack(nn.Module):
    """An embedding and two layers, the lower one a weight that may be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4)
        self.low = nn.Linear(4, 4, bias=False)
        self.high = nn.Linear(4, 2, bias=False)


def test_operations_of_training_everything_are_six_for_a_weight_and_token() -> None:
    module: Any = type("Module", (), {"net": Stack()})()
    assert weights(module.net) == 16 + 8
    assert estimated_flops(module, None, 1000) == 6 * 24 * 1000
    assert estimated_flops(module, None, 0) == 0
    module.net.low.weight.requires_grad = False
    assert estimated_flops(module, None, 1000) == (4 * 24 + 2 * 8) * 1000


def whole(net: Any) -> Any:
    return net


def top_two(net: Any) -> Any:
    return PartialFinetune(top_blocks=2).adapt(net, None)  # type: ignore[arg-type]


def adapters(net: Any) -> Any:
    targets = ["query", "key", "value", "q_lin", "k_lin", "v_lin", "c_attn", "q_proj", "v_proj"]
    return get_peft_model(net, LoraConfig(task_type="SEQ_CLS", target_modules=targets, r=4))


def counted(net: Any, batch: dict[str, Any]) -> float:
    """Operations of the products with a weight in one training step, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        net(**batch).loss.backward()
    found = counter.get_flop_counts()["Global"]
    products = {str(name): n for name, n in found.items()}
    return float(sum(n for name, n in products.items() if name in ("aten.mm", "aten.addmm")))


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("trains", [whole, top_two, adapters])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_operations_are_those_that_torch_counts(family: str, trains: Any, reads: bool) -> None:
    net = trains(shaped(family).train())
    if reads:
        read_first(net)
    ids = torch.randint(3, 100, (6, 20), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 3
    expected = counted(net, {"input_ids": ids, "labels": labels})
    rows = [{"input_ids": one.tolist(), "labels": 0, "index": i} for i, one in enumerate(ids)]
    module: Any = SimpleNamespace(net=net)
    data: Any = SimpleNamespace(encoded={"train": Encoded(rows)})
    # The lowest trained projections pass no gradient down, which is not looked into.
    tolerance = 0.001 if trains is whole else 0.12
    assert estimated_flops(module, data, ids.numel()) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("task", [answered, written])
def test_losses_of_rows_add_up_to_the_loss(task: Any, tmp_path: Path) -> None:
    """And so a loss has an interval, and two losses a paired test."""
    common = [*task(tmp_path / "data"), *decoder(tmp_path), "strategy=full_finetune"]
    for seed in (0, 1):
        metrics = finished(tmp_path / "runs" / str(seed), *common, f"seed={seed}")["metrics"]
        lines = (tmp_path / "runs" / str(seed) / "losses.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        nats, tokens, right = (sum(row[k] for row in rows) for k in ("nats", "tokens", "right"))
        assert nats / tokens == pytest.approx(metrics["test/loss"], rel=1e-6)
        assert right / tokens == pytest.approx(metrics["test/token_accuracy"])
        if "test/bits_per_byte" in metrics:
            bits = nats / math.log(2) / sum(row["bytes"] for row in rows)
            assert bits == pytest.approx(metrics["test/bits_per_byte"], rel=1e-6)
    runs = find(tmp_path / "runs")
    one_each = arms(runs, by=["seed"])
    for metric in ("test/loss", "test/perplexity", "test/token_accuracy"):
        found = evidence(one_each, metric)
        assert found.refused == []
        for bounds in found.intervals.values():
            assert bounds.low <= bounds.mean <= bounds.high and bounds.low < bounds.high, bounds
        assert [v.difference.test for v in found.verdicts] == ["paired bootstrap"]


def test_losses_in_chunks_are_those_of_whole_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmexp.tasks import chunked_loss
    from llmexp.tasks.cross_entropy import each

    monkeypatch.setattr(chunked_loss, "CHUNK", 64)
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 16), torch.randn(23, 8)
    labels = torch.randint(0, 16, (23,))
    for one, other in zip(
        chunked_loss.chunked_each(head, hidden, labels), each(head(hidden), labels), strict=True
    ):
        assert np.allclose(one.detach(), other.detach(), atol=1e-6)
