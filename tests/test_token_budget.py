"""Batches under a token budget: nothing too large, nothing twice, ranks in step, updates exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmexp.data.batches import POOL, UpdateBatches
from llmexp.data.token_budget import BudgetEvaluationBatches, BudgetUpdateBatches, cut_by_tokens
from llmexp.errors import UserError
from tests import runs, tiny

BUDGET = 200


def ragged(rows: int = 700, seed: int = 0, longest: int = 90) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, longest, (rows,), generator=generator).tolist()


def padded(batch: list[int], lengths: list[int]) -> int:
    return len(batch) * max(lengths[i] for i in batch)


def epoch(sampler: Any, number: int) -> list[list[int]]:
    sampler.set_epoch(number)
    return list(sampler)


@pytest.mark.parametrize("rows", [1, 2, 5, 33, 700])
def test_every_row_once_within_the_budget_and_as_many_batches_in_every_epoch(rows: int) -> None:
    lengths = ragged(rows)
    sampler = BudgetUpdateBatches(lengths, BUDGET, accumulate=3, seed=1)
    orders = [epoch(sampler, e) for e in range(5)]
    for batches in orders:
        assert sorted(i for batch in batches for i in batch) == list(range(rows))
        assert all(padded(batch, lengths) <= BUDGET for batch in batches)
        assert len(batches) == len(sampler)
    assert orders[2] == epoch(BudgetUpdateBatches(lengths, BUDGET, 3, seed=1), 2)
    if rows > POOL:
        other = epoch(BudgetUpdateBatches(lengths, BUDGET, 3, seed=2), 0)
        assert orders[0] != orders[1] and orders[0] != other


@pytest.mark.parametrize("seed", range(8))
def test_little_of_a_batch_is_padding(seed: int) -> None:
    lengths = ragged(seed=seed)
    batches = list(BudgetUpdateBatches(lengths, BUDGET, seed=seed))
    read = sum(padded(batch, lengths) for batch in batches)
    by_rows = sum(padded(batch, lengths) for batch in UpdateBatches(lengths, 4, 1, seed))
    random = sum(padded(list(range(k, k + 4)), lengths) for k in range(0, len(lengths), 4))
    assert sum(lengths) <= read < 1.15 * sum(lengths) < random
    assert read < by_rows * 1.05
    fewest = len(cut_by_tokens(sorted(range(700), key=lambda i: -lengths[i]), lengths, BUDGET))
    assert len(batches) <= fewest * (1 + 1 / POOL) + 1


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_ranks_stay_in_step_and_share_what_one_process_would_accumulate(
    world: int, rows: int
) -> None:
    lengths = ragged(rows)
    alone = BudgetUpdateBatches(lengths, BUDGET, accumulate=2 * world, seed=4)
    ranks = [BudgetUpdateBatches(lengths, BUDGET, 2, 4, r, world) for r in range(world)]
    one, parts = epoch(alone, 1), [epoch(rank, 1) for rank in ranks]
    assert len({len(part) for part in parts}) == 1 and len(parts[0]) == len(ranks[0])
    together = [part[k] for k in range(len(parts[0])) for part in parts]
    assert [batch for batch in together if min(batch) >= 0] == one
    fillers = [batch for batch in together if min(batch) < 0]
    assert all(len(batch) == 1 for batch in fillers) and len(fillers) < world
    updates = [one[k : k + 2 * world] for k in range(0, len(one), 2 * world)]
    mine = [[*together[k : k + 2 * world]] for k in range(0, len(together), 2 * world)]
    assert [[b for b in update if min(b) >= 0] for update in mine] == updates


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_row_once(world: int) -> None:
    lengths = [*ragged(50), 500]
    parts = [list(BudgetEvaluationBatches(lengths, BUDGET, r, world)) for r in range(world)]
    assert len({len(part) for part in parts}) == 1
    batches = [batch for part in parts for batch in part if min(batch) >= 0]
    assert sorted(i for batch in batches for i in batch) == list(range(51))
    assert [b for b in batches if padded(b, lengths) > BUDGET] == [[50]]


def test_a_budget_smaller_than_a_row_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"a row has 9 tokens .* use data.tokens_per_batch=9"):
        BudgetUpdateBatches([3, 9, 4], 8)
    assert epoch(BudgetUpdateBatches([3, 9, 4], 9), 0)


@pytest.mark.parametrize("pose", [runs.classified, runs.answered])
def test_a_run_under_a_budget(tmp_path: Path, pose: Any) -> None:
    net = (tiny.bert if pose is runs.classified else tiny.llama)(tmp_path / "net")
    words = ["model=local", f"model.path={net}", "strategy=full_finetune"]
    more = ["data.tokens_per_batch=200", "trainer.accumulate_grad_batches=2"]
    result = runs.finished(tmp_path / "run", *pose(tmp_path / "data"), *words, *more)
    plain = runs.finished(tmp_path / "plain", *pose(tmp_path / "data"), *words)
    train = result["encoding"]["train"]
    assert result["cost"]["tokens_trained"] == train["tokens"]
    assert result["encoding"] == plain["encoding"]
    assert set(result["metrics"]) == set(plain["metrics"])
