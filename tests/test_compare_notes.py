"""What `llmexp compare` says around its tables: titles, notes, prices, where the rest stands."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmexp.compare import command as compare
from llmexp.jobs.results import write_result
from tests.test_compare import answered, marks, printed, result, written


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


def three(folder: Path, **changes: Any) -> str:
    """Three arms of three seeds; what they cost is the same."""
    for strategy, share in (("partial_finetune", 0.9), ("lora", 0.7), ("zero_shot", 0.5)):
        answered(folder, strategy, [marks(share, flipped=n) for n in range(3)], **changes)
    return str(folder)


def test_every_form_says_where_all_pairs_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = three(tmp_path / "runs")
    for form in ([], ["--markdown"]):
        said = " ".join(printed([path, *form], capsys).split())
        assert "(2 of 3 pairs, the best with the others; --pairs or --html for all)" in said
        assert "p by Holm's correction for 3 pairs, intervals of a pair alone" in said
    assert compare.main([path, "--csv"]) == 0
    assert "every pair with its verdict: --pairs" in capsys.readouterr().err
    assert "--pairs" in printed([path, "--parquet", str(tmp_path / "all.parquet")], capsys)
    page = paged(path, tmp_path)
    assert "every pair is below" in page and "95 % (this pair alone)" in page
    assert "corrected for all 3 pairs together" in page


def test_pairs_are_a_table_for_other_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = three(tmp_path)
    rows = list(csv.DictReader(io.StringIO(printed([path, "--pairs"], capsys))))
    (study,) = compare.studied(compare.find(tmp_path))
    assert len(rows) == 3
    for row, verdict in zip(rows, study.evidence.verdicts, strict=True):
        assert (row["first"], row["second"]) == (verdict.first, verdict.second)
        assert row["verdict"] == verdict.sentence
        assert float(row["p_holm"]) == verdict.p
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])


PRICED = {
    "fit_seconds": 10.0,
    "total_seconds": 20.0,
    "tokens_per_second": 1234.0,
    "peak_memory_mb": 2048.0,
    "trainable_parameters": 341_000,
    "estimated_flops": 5.6e12,
    "money": 0.0123,
    "energy_kwh": 0.456,
}


def test_every_price_stands_beside_the_quality(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In 80 columns what is decided by stays, and a line names what does not fit."""
    path = three(tmp_path / "runs", cost=PRICED)
    markdown = printed([path, "--markdown"], capsys)
    for title in ("total", "money", "kWh", "tokens/s", "FLOPs"):
        assert f" {title} |" in markdown.splitlines()[2]
    shown = ("20.0s", "0.0123", "0.456", "1.23k", "5.6e+12")
    out = printed([path], capsys)
    page = paged(path, tmp_path)
    for text in shown:
        assert f"| {text} |" in markdown and f">{text}</td>" in page
    table = out[: out.index("best:")].splitlines()
    assert max(map(len, table)) <= 80 and "partial_finetune" in out
    for title in ("95 %", "total", "money", "kWh", "trained", "memory"):
        assert title in table[1]
    assert "FLOPs" not in table[1]
    assert "no room for FLOPs, tokens/s" in out


def test_a_wide_terminal_has_room_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    out = printed([written(tmp_path, result("lora", 0.9, cost=PRICED))], capsys)
    assert "FLOPs" in out and "5.6e+12" in out and "no room" not in out


def test_seeds_that_did_not_complete_are_counted_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else "two seeds" reads as if nobody had tried a third."""
    path = three(tmp_path / "runs")
    for n in (0, 1, 2):
        curve(tmp_path / "runs" / f"lora_{n}", 30)
    changes = {"status": "diverged", "reason": "the loss is [nan]", "metrics": {}}
    early = {"status": "failed", "fingerprint": {}, "metrics": {}, "reason": "killed"}
    for name, one in (
        ("again", result("lora", None, seed=1, **changes)),
        ("nan", result("lora", None, seed=3, **changes)),
        ("early", result("lora", None, seed=4, **early)),
        ("other", result("qlora", None, seed=0, **changes)),
    ):
        (tmp_path / "runs" / name).mkdir()
        write_result(tmp_path / "runs" / name, one)
    note = "lora: 2 of 5 seeds did not complete (seed 4 failed, seed 3 diverged); the mean is over"
    assert note in " ".join(printed([path], capsys).split())
    plain = paged(path, tmp_path)
    assert note in plain and plain.count('class="arm arm-1"') and "stroke-dasharray" not in plain
    curve(tmp_path / "runs" / "nan", 20)
    dashed = paged(path, tmp_path).count("stroke-dasharray")
    # In both shapes of the picture.
    assert dashed == 2
    curve(tmp_path / "runs" / "other", 20)
    assert paged(path, tmp_path).count("stroke-dasharray") == 4


def curve(folder: Path, steps: int) -> None:
    lines = [json.dumps({"step": n, "train/loss": 1 / (n + 1)}) for n in range(steps)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


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
