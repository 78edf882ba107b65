"""Schedules: those of transformers where they end at zero, and where YAML says otherwise."""

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from llmexp.optim import AdamW

STEPS, WARMUP, PEAK = 60, 6, 1e-3
NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def rates(schedule: str, end: float, warmup: int = WARMUP) -> list[float]:
    spec = AdamW(
        learning_rate=PEAK,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.99,
        warmup=warmup,
        schedule=schedule,
        states="full",
        final_learning_rate=end,
    )
    made = spec.build(nn.Linear(2, 2), STEPS)
    return walked(made["optimizer"], made["lr_scheduler"]["scheduler"])


def walked(optimizer: torch.optim.Optimizer, scheduler: object) -> list[float]:
    found = []
    for _ in range(STEPS + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", NAMES)
def test_a_schedule_is_the_one_of_transformers(schedule: str) -> None:
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=PEAK)
    reference = get_scheduler(NAMES[schedule], optimizer, WARMUP, STEPS)
    assert rates(schedule, 0.0) == pytest.approx(walked(optimizer, reference), abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_ends_where_yaml_says(schedule: str) -> None:
    found = rates(schedule, 1e-4)
    assert found[0] == 0.0
    assert found[WARMUP] == pytest.approx(PEAK)
    assert found[-1] == pytest.approx(1e-4)
    assert min(found[WARMUP:]) >= 1e-4 * (1 - 1e-9)


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("warmup", [STEPS, 2 * STEPS])
def test_a_run_may_be_all_warmup(schedule: str, warmup: int) -> None:
    found = rates(schedule, 1e-4, warmup)
    assert found[:STEPS] == pytest.approx([PEAK * k / warmup for k in range(STEPS)])
