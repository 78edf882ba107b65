"""What `llmexp compare` says around its tables: titles, notes, prices, where the rest stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmexp.compare import command as compare
from tests.test_compare import printed, result, written


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def paged(path: str, folder: Path) -> str:
    """The page, without its own style and script."""
    assert compare.main([path, "--html", str(folder / "page.html")]) == 0
    text = (folder / "page.html").read_text()
    return re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.S)


def test_runs_without_the_metric_are_in_no_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is the cheapest of them the best; what they can be ranked by is named."""
    facts: dict[str, Any] = {"task": "instruction", "baseline": {}}
    texts = [
        result(
            name, None, metrics={"test/rouge_l": share, "test/bleu": 0.1, "val/loss": 1}, **facts
        )
        for name, share in (("lora", 0.5), ("zero_shot", 0.3))
    ]
    path = written(tmp_path, *texts, result("lora", 0.9))
    out = printed([path, "--metric", "test/accuracy"], capsys)
    assert "no run here has test/accuracy, so they are in no order of quality; they have" in out
    assert "they have test/bleu, test/rouge_l" in out
    assert out.count("best: ") == 1 and f"best: {tmp_path / 'run2'}" in out


def test_a_title_names_the_file_where_the_choice_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = {"data": "classification", "seed": 0}
    given = ["data.train=../data/sst2/train.csv", "data.test=../data/sst2/test.csv"]
    path = written(
        tmp_path,
        result("lora", 0.9, overrides=given, **common),
        result("lora", 0.8, overrides=["data.train=trec.csv"], fingerprint={"test": "b"}, **common),
        result("lora", 0.8, overrides=["data.train=hub:a/b:train"], fingerprint={"test": "c"}),
        {"schema": 1, "status": "failed", "reason": "killed by signal 9"},
    )
    assert "None" not in printed([path], capsys)
    titles = re.findall(r"^\*\*(.*)\*\*$", printed([path, "--markdown"], capsys), re.M)
    assert titles[0].startswith("classification, sst2/test.csv, 50 test rows")
    assert titles[1].startswith("classification, trec.csv, 50 test rows")
    assert titles[2].startswith("topics, classification, 50 test rows")


def test_a_page_names_every_run_that_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of a terminal names three and says where the others are named."""
    many = [result("lora", 0.5, seed=seed, fingerprint={"test": "b"}) for seed in range(6)]
    path = written(tmp_path / "runs", result("lora", 0.9), *many)
    for form in ([], ["--markdown"]):
        out = printed([path, *form], capsys)
        assert "and 3 more (--html names all) were tested on rows b, not aaaa" in out
    page = paged(path, tmp_path)
    line = next(part for part in page.split("<p") if "were tested on rows" in part)
    assert all(f"runs/run{n}" in line for n in range(1, 7)) and "more" not in line
