"""The curves of a training are for callbacks, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import runs, tiny


def test_callbacks_may_monitor_the_loss_of_training(tmp_path: Path) -> None:
    """The last update's at each validation, though this one logs every update and that one none."""
    made = [*runs.classified(tmp_path / "data"), "model=local", "strategy=full_finetune"]
    made += [f"model.path={tiny.bert(tmp_path / 'bert')}", "trainer.max_epochs=4"]
    made += ["callbacks.checkpoint.monitor=train/loss", "optim.learning_rate=1e-3"]
    made += ["callbacks.early_stopping.monitor=train/loss", "callbacks.early_stopping.patience=1"]
    made += ["callbacks.early_stopping.min_delta=1000"]
    every, none = tmp_path / "every", tmp_path / "none"
    for folder, steps in ((every, 1), (none, 1000)):
        runs.finished(folder, *made, f"trainer.log_every_n_steps={steps}")
    lines = [json.loads(line) for line in (every / "metrics.jsonl").read_text().splitlines()]
    told = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    validated = [line["step"] for line in lines if "val/loss" in line]
    assert len(validated) == 2  # no loss falls by a thousand, so the second validation is the last
    for folder in (every, none):
        best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
        assert best["global_step"] in validated
        kept = next(v for k, v in best["callbacks"].items() if k.startswith("Checkpoint"))
        assert float(kept["score"]) == pytest.approx(min(told[step] for step in validated))
    assert not [
        line for line in (none / "metrics.jsonl").read_text().splitlines() if "train/" in line
    ]


def test_what_takes_no_steps_has_no_curve_and_runs(tmp_path: Path) -> None:
    made = [*runs.classified(tmp_path / "data"), "model=local", "strategy=feature_based"]
    made += [f"model.path={tiny.bert(tmp_path / 'bert')}", f"cache.dir={tmp_path / 'cache'}"]
    result = runs.finished(tmp_path / "run", *made, "strategy.classifier=logistic_regression")
    assert result["status"] == "completed"
    assert "train/loss" not in (tmp_path / "run" / "metrics.jsonl").read_text()
