"""The gradient of an update is that of its mean over tokens, however the update was cut up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from llmexp.config import Cache
from llmexp.modules.update import Window
from llmexp.tasks.base import IGNORE, Loss
from llmexp.tasks.cross_entropy import cross_entropy
from tests.exact import apart, carried_out, concatenated, measured, norms_apart
from tests.exact_cases import CASES, Case, Cut, context, named

BY_ROWS = [named(case) for case in CASES if case.batching != "tokens"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize("case", BY_ROWS)
def test_eight_rows_at_once_are_eight_rows_one_by_one(folder: Path, case: Case) -> None:
    """Ragged rows, 21 of them: the last update has 5. The mean of means must not pass."""
    whole = measured(context(folder, case, Cut(8, 1)))
    single = measured(context(folder, case, Cut(1, 8)))
    loss, gradients = apart(single, whole)
    assert loss < 1e-6 and gradients < 1e-5
    assert norms_apart(single, whole) < 1e-5
    assert single.metrics == pytest.approx(whole.metrics, rel=1e-6, abs=1e-6)
    _, wrong = apart(measured(context(folder, case, Cut(1, 8)), wrong=True), whole)
    assert wrong > 1e-3


@pytest.mark.parametrize("case", [named(case) for case in CASES])
def test_a_short_last_window_is_its_own_mean(folder: Path, case: Case) -> None:
    """Every update against one concatenated batch through plain autograd."""
    made = context(folder, case, Cut(2, 4))
    module, data, found = carried_out(made)
    batches = len(data.train_dataloader())
    size = next(size for size in (4, 3, 5) if batches % size != 0)
    if size != 4:
        made = replace(made, accumulate=size)
        module, data, found = carried_out(made)
    reference = concatenated(module, data, size)
    loss, gradients = apart(found, reference)
    assert loss < 1e-6 and gradients < 1e-5
    assert norms_apart(found, reference) < 1e-5
    _, wrong = apart(measured(made, wrong=True), reference)
    assert wrong > 1e-3


def test_a_loss_scaler_is_out_of_the_gradients_before_anybody_looks(folder: Path) -> None:
    """A fused optimizer would take it out in its own step; norms and clipping come before."""
    case = Case("full_finetune", "classification", "rows")
    plain = measured(context(folder, case, Cut(8, 1)), gradient_clip_val=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    half = MixedPrecision("16-mixed", "cpu", scaler)
    scaled = measured(context(folder, case, Cut(8, 1)), gradient_clip_val=0.01, plugins=half)
    for norms, right in zip(scaled.norms, plain.norms, strict=True):
        assert norms == pytest.approx(right, rel=1e-2)
    _, gradients = apart(scaled, plain)
    assert gradients < 1e-2


STORED = [
    Case("head_only", "classification", "rows"),
    Case("partial_finetune", "instruction", "rows"),
    Case("feature_based", "classification", "rows"),
]
MORE = [
    Case("head_only", "instruction", "packed"),
    Case("partial_finetune", "classification", "tokens"),
]
KEPT = [pytest.param(c, id="-".join(c)) for c in STORED]
KEPT += [pytest.param(c, id="-".join(c), marks=pytest.mark.long) for c in MORE]


@pytest.mark.parametrize("case", KEPT)
def test_updates_on_stored_states_are_those_of_the_whole_network(
    folder: Path, tmp_path: Path, case: Case
) -> None:
    """Computed and stored, then found again; cut otherwise than without. The others keep none."""
    # Under a budget an update is so many batches, whatever the rows of each.
    budget = case.batching == "tokens"
    plain = measured(context(folder, case, Cut(8, 2 if budget else 1)))
    cut = Cut(8, 2) if budget else Cut(1, 8)
    kept = Cache(enabled=True, dir=str(tmp_path / "cache"), max_gb=1.0)
    for hit in (False, True):
        _, data, found = carried_out(replace(context(folder, case, cut), cache=kept))
        assert data.prefix.hit == hit
        loss, gradients = apart(found, plain)
        assert loss < 1e-6 and gradients < 1e-5
        assert found.metrics == pytest.approx(plain.metrics, rel=1e-6, abs=1e-6)
    _, wrong = apart(measured(replace(context(folder, case, cut), cache=kept), wrong=True), plain)
    assert wrong > 1e-3


def test_every_trained_strategy_is_among_the_cases() -> None:
    conf = Path(__file__).resolve().parents[1] / "conf" / "strategy"
    untrained = {"zero_shot", "few_shot"}
    assert {case.strategy for case in CASES} == {p.stem for p in conf.glob("*.yaml")} - untrained


def test_sums_lose_nothing_to_rounding() -> None:
    """Tokens in one piece or in two thousand; in float32 the means differ in the sixth digit."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200_000, 5, generator=generator)
    labels = torch.randint(5, (200_000,), generator=generator)
    labels[::7] = IGNORE
    window = Window()
    for part, answers in zip(logits.split(97), labels.split(97), strict=True):
        total, count = cross_entropy(part, answers), (answers != IGNORE).sum()
        window.add(Loss(total, count, part, answers))
    tokens, mean = window.close()
    assert int(tokens) == int((labels != IGNORE).sum())
    expected = nn.functional.cross_entropy(logits.double(), labels)
    assert abs(float(mean - expected)) < 1e-7


def test_half_precision_rounds_no_sum(folder: Path) -> None:
    """A trainer that casts the whole module to bfloat16 still says the loss to more digits."""
    case = Case("full_finetune", "instruction", "rows")
    found = measured(context(folder, case, Cut(8, 1)), precision="bf16-true")
    losses = torch.tensor(found.losses)
    assert not torch.equal(losses, losses.bfloat16().float())
