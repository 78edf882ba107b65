"""A run imports nothing only because it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import runs, tiny

ROOT = Path(__file__).resolve().parents[1]
AFTERWARDS = """
from llmexp.unneeded import import_libraries, without_bitsandbytes

import_libraries()
with without_bitsandbytes():
    from peft import import_utils

    assert not import_utils.is_bnb_4bit_available()
import sys

assert not {"matplotlib", "scipy.signal", "scipy.optimize"} & set(sys.modules)
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

# As with matplotlib at hand: values, a confusion matrix, axes of one's own.
values, matrix = MulticlassAccuracy(3, average=None), MulticlassConfusionMatrix(3)
given = torch.eye(3), torch.arange(3)
values.update(*given), matrix.update(*given)
import matplotlib

matplotlib.use("svg")
figure, axes = values.plot()
assert type(figure) is matplotlib.figure.Figure and type(axes).__module__.startswith("matplotlib")
assert values.plot(ax=axes)[1] is axes
matrix.plot()
import scipy.optimize
import scipy.signal
from transformers.loss.loss_for_object_detection import linear_sum_assignment

assert [list(x) for x in linear_sum_assignment([[1, 0], [0, 1]])] == [[0, 1], [1, 0]]
assert scipy.optimize.minimize(lambda x: x @ x, [1.0]).success
from transformers.utils import is_bitsandbytes_available

assert scipy.signal.butter(2, 0.5)
assert is_bitsandbytes_available() and import_utils.is_bnb_4bit_available()
"""


def test_a_run_with_adapters_imports_neither_bitsandbytes_nor_signals(tmp_path: Path) -> None:
    model = tiny.bert(tmp_path / "bert")
    given = ["strategy=lora", "model=local", f"model.path={model}", *runs.COMMON]
    given += [*runs.classified(tmp_path / "data"), f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *given, f"cache.dir={tmp_path / 'cache'}"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0, done.stdout[-3000:]
    assert {"peft", "torchmetrics.metric"} <= imported
    # Asking for bitsandbytes itself is listed, too, though it is told that there is none.
    assert (
        not {
            "bitsandbytes.nn",
            "scipy.signal",
            "scipy.optimize",
            "matplotlib",
            "datasets",
            "pandas",
            "wandb",
        }
        & imported
    )


def test_what_was_left_out_is_there_for_whoever_asks_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
