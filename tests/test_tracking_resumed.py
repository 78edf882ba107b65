"""A run that was killed and goes on: its tracker has the whole history, each step once."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import wandb

from llmexp.jobs.events import events, whole_lines
from tests import tiny
from tests.test_resume import Case, haunted, overrides

# In the second of two epochs, five batches each; the last checkpoint is of step 6.
LATE = [("batch_end", 7, 9)]
Curves = dict[str, list[tuple[int, float]]]


def of_csv(folder: Path) -> Curves:
    found: Curves = {}
    with (folder / "csv" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if value and key.startswith(("train/", "val/")):
                    found.setdefault(key, []).append((int(row["step"]), float(value)))
    return found


def of_tensorboard(folder: Path) -> Curves:
    """What TensorBoard itself shows."""
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    told = event_accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    keys = [key for key in told.Tags()["scalars"] if key.startswith(("train/", "val/"))]
    return {key: [(e.step, e.value) for e in told.Scalars(key)] for key in keys}


@pytest.mark.long
@pytest.mark.parametrize(("tracking", "read"), [("csv", of_csv), ("tensorboard", of_tensorboard)])
def test_a_killed_run_leaves_all_curves_to_its_tracker(
    tracking: str, read: Any, tmp_path: Path
) -> None:
    """Those of `metrics.jsonl`, which are those of a run that nobody touched (test_resume.py)."""
    models = {"classification": tiny.bert(tmp_path / "bert", labels=3)}
    case = Case("head_only", "classification", False, 1, 0, "")
    lines = [o for o in overrides(case, tmp_path, models) if o != "tracking=none"]
    folder = tmp_path / "killed"
    haunted([*lines, f"tracking={tracking}"], folder, LATE)
    found = read(folder)
    assert [step for step, _ in found["train/loss"]] == list(range(10))
    assert [step for step, _ in found["val/loss"]][:2] == [4, 9]
    for event in events(folder / "metrics.jsonl"):
        for key in event.keys() & found.keys():
            # TensorBoard keeps single precision.
            wanted = (event["step"] - 1, pytest.approx(event[key], rel=1e-6))
            assert found[key].count(wanted) == 1, (key, event)


@pytest.fixture
def service() -> Iterator[None]:
    """A process that uses W&B itself starts the run: a notebook, a script, this session."""
    # A test before this one may have left a service whose address is in no variable.
    with suppress(SystemExit):
        wandb.teardown()
    wandb.setup()
    assert os.environ["WANDB_SERVICE"]
    yield
    wandb.teardown()


@pytest.mark.long
@pytest.mark.usefixtures("service")
def test_half_an_answer_that_a_death_left_is_cut_off_not_stumbled_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may end in half a character, and a whole one may hold what Python takes for a line end."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    models = {"instruction": tiny.llama(tmp_path / "llama")}
    case = Case("lora", "instruction", False, 1, 0, "")
    lines = [o for o in overrides(case, tmp_path, models) if o != "tracking=none"]
    folder = tmp_path / "killed"
    odd = {"step": 0, "index": 0, "prediction": "one\u2028two\u0085three"}
    half = '{"step": 1, "prediction": "caf\u00e9'.encode()[:-1]

    def spoil() -> None:
        with (folder / "samples.jsonl").open("ab") as file:
            file.write((json.dumps(odd, ensure_ascii=False) + "\n").encode() + half)

    haunted([*lines, "tracking=wandb", "tracking.samples=2"], folder, LATE, between=spoil)
    written = events(folder / "samples.jsonl")
    assert (folder / "samples.jsonl").read_bytes().endswith(b"\n")
    steps = [row["step"] for row in written]
    first, last = min(steps[:2]), max(steps)
    assert steps == [first, first, 0, last, last] and 0 < first < last
    assert written[2] == odd


def test_only_finished_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert whole_lines(file) == [] and events(file) == []
    whole = [{"text": "a\u2028b\u0085c"}, {"text": "caf\u00e9"}]
    data = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in whole).encode()
    for end in range(len(data) + 1):
        file.write_bytes(data[:end])
        assert events(file) == whole[: data[:end].count(b"\n")]
