"""Faults of data, cache and network; and that docs/faults.md names tests that exist."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmexp.errors import UserError
from llmexp.jobs.results import EXIT_CODES
from llmexp.tasks.classification import Classification
from tests import runs, tiny
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "faults.md"


def run(tmp_path: Path, *overrides: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "run.py", *overrides, f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("overflow", ["truncate", "drop", "error"])
def test_a_classification_row_that_is_too_long(overflow: Any) -> None:
    """Counted whatever happens to it; rows that just fit are none of them."""
    tokenizer = tiny.tokenizer(bert=True)
    words = [{"text": tiny.TEXTS[0], "label": "a"}, {"text": "the fox", "label": "b"}]
    just = len(tokenizer(words[1]["text"])["input_ids"])
    task = Classification(train="made.jsonl", overflow=overflow)
    rows = [*words, words[1]]
    if overflow == "error":
        with pytest.raises(UserError, match=rf"data.overflow: row 0 has more .*={just} tokens"):
            task.encode(rows, tokenizer, just, ["a", "b"])
        return
    made = task.encode(rows, tokenizer, just, ["a", "b"])
    if overflow == "drop":
        assert made.counts == {"dropped": 1}
        assert [(row["index"], row["labels"]) for row in made.rows] == [(1, 1), (2, 1)]
        return
    assert made.counts == {"truncated": 1}
    assert [row["labels"] for row in made.rows] == [0, 1, 1]
    assert [len(row["input_ids"]) for row in made.rows] == [just] * 3
    # Framed as ever: what is cut is the end of the text, not the mark after it.
    assert made.rows[0]["input_ids"][-1] == made.rows[1]["input_ids"][-1]


EMPTY = {"rows.jsonl": "", "head.csv": "text,label\n", "blank.jsonl": "\n\n"}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_file_ends_before_the_model_is_looked_at(tmp_path: Path, name: str) -> None:
    """The model's folder holds no weights at all: nobody gets there."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / name).write_text(EMPTY[name])
    model = ["model=local", f"model.path={tmp_path / 'model'}", "tracking=none"]
    done = run(tmp_path, *model, "data=classification", f"data.train={tmp_path / name}")
    assert done.returncode == 2
    assert re.fullmatch(r"llmexp: .*(empty|no rows).*\n", done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


def hub_model(home: Path) -> None:
    """A model as `hf download` leaves it."""
    repo = home / "hub" / "models--tiny--bert"
    folder = repo / "snapshots" / ("1" * 40)
    tiny.bert(folder, labels=3)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("1" * 40)


HUB = ["model=local", "model.path=tiny/bert", "tracking=none", "data.batch_size=8"]
NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": "", "HF_TOKEN": ""}


def offline(home: Path, **more: str) -> dict[str, str]:
    return {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), **more}


def test_offline_a_model_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    """What is missing, and the one command that fetches it; no folder is left."""
    words = [*runs.classified(tmp_path / "data"), *HUB, f"cache.dir={tmp_path / 'cache'}"]
    done = run(tmp_path, *words, **offline(tmp_path / "home", HF_HUB_OFFLINE="1"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "hf download tiny/bert" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "how",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.long),
    ],
    ids=["told", "unreachable"],
)
def test_offline_a_run_works_from_the_hubs_cache(tmp_path: Path, how: dict[str, str]) -> None:
    """Trains, tests, exports and predicts on a model that is in the local hub cache alone."""
    home = tmp_path / "home"
    hub_model(home)
    words = [*runs.classified(tmp_path / "data"), *HUB, f"cache.dir={tmp_path / 'cache'}"]
    done = run(tmp_path, *words, "strategy=lora", **offline(home, **how))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "completed"
    predicted = subprocess.run(
        [sys.executable, "-m", "llmexp", "predict", str(tmp_path / "run"), "the quick brown fox"],
        cwd=ROOT,
        env={**os.environ, **offline(home, **how)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert predicted.returncode == 0, predicted.stderr


BUILDER = """
import sys, time
from pathlib import Path
import torch
from llmexp.cache.features import FeatureCache
from llmexp.config import Cache

folder, slow = Path(sys.argv[1]), float(sys.argv[2])
def fill(out):
    with (folder / "fills").open("a") as file:
        file.write("x")
    out[:500] = 1.0
    time.sleep(slow)
    out[:] = torch.arange(1000.0)[:, None].expand(1000, 8)
cache = FeatureCache(Cache(enabled=True, dir=str(folder / "cache"), max_gb=1.0))
print("waiting", flush=True)
found = cache.entry("key", (1000, 8), torch.float32, fill)
assert float(found.states.sum()) == 8 * sum(range(1000))
print(found.hit)
"""


def test_a_builder_that_is_killed_leaves_the_cache_to_the_others(tmp_path: Path) -> None:
    """SIGKILL half-way: one of those that waited builds it whole, the others read that."""

    def start(slow: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", BUILDER, str(tmp_path), str(slow)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    first = start(500.0)
    until((tmp_path / "fills").exists, "it is half-way", lambda: first.poll() is None)
    others = [start(0.0) for _ in range(3)]
    for other in others:
        assert other.stdout is not None and other.stdout.readline() == "waiting\n"
    assert first.poll() is None and (tmp_path / "fills").read_text() == "x"
    first.send_signal(signal.SIGKILL)
    first.wait()
    said = sorted(other.communicate(timeout=200)[0].strip() for other in others)
    assert said == ["False", "True", "True"]
    assert (tmp_path / "fills").read_text() == "xx"
    left = [path.name for path in (tmp_path / "cache" / "features").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == ["key"]


@pytest.mark.long
def test_runs_at_once_on_one_cache_all_end_well(tmp_path: Path) -> None:
    """Three runs that need the same features: computed once, the same answers, no leftovers."""
    model = tiny.bert(tmp_path / "bert", labels=3)
    words = [*runs.classified(tmp_path / "data"), "model=local", f"model.path={model}"]
    words += ["strategy=feature_based", "tracking=none", f"cache.dir={tmp_path / 'cache'}"]
    started = [
        subprocess.Popen(
            [sys.executable, "run.py", *words, f"hydra.run.dir={tmp_path / str(n)}"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        for n in range(3)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0, 0]
    folders = [tmp_path / str(n) for n in range(3)]
    results = [json.loads((f / "result.json").read_text()) for f in folders]
    assert sorted(r["cost"]["cache_hit"] for r in results) == [False, True, True]
    assert len({(f / "predictions.jsonl").read_text() for f in folders}) == 1
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    shutil.rmtree(tmp_path / "cache")


def nodes() -> list[str]:
    return sorted(set(re.findall(r"`(tests/\w+\.py::\w+)`", PAGE.read_text(encoding="utf-8"))))


def test_every_test_that_the_page_names_exists() -> None:
    assert len(nodes()) > 20
    for node in nodes():
        file, _, name = node.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        there = {part.name for part in tree.body if isinstance(part, ast.FunctionDef)}
        assert name in there, f"docs/faults.md names {node}, which does not exist"


def test_the_page_says_the_exit_codes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for status, code in EXIT_CODES.items():
        if status != "running":
            assert f"| {code} | `{status}` |" in text, status
