"""`llmexp compare`: the right runs beside each other, in the right order, in 80 columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from llmexp.compare import command as compare
from llmexp.errors import UserError
from llmexp.jobs.results import write_result


def result(strategy: str, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    metrics = {"test/accuracy": accuracy, "test/f1_macro": 0.5, "test/loss": 0.4, "val/loss": 1.0}
    cost = {
        "fit_seconds": 10.0,
        "total_seconds": 20.0,
        "prefix_seconds": 0.0,
        "cache_hit": False,
        "tokens_trained": 1000,
        "tokens_per_second": 100.0,
        "peak_memory_mb": 2048.0,
        "trainable_parameters": 341_000,
        "total_parameters": 22_700_000,
    }
    made = {
        "schema": 1,
        "status": "completed",
        "reason": None,
        "name": f"{strategy}_minilm_topics",
        "task": "classification",
        "strategy": strategy,
        "model": "minilm",
        "data": "topics",
        "seed": 0,
        "overrides": [f"strategy={strategy}"],
        "metrics": metrics,
        "baseline": {"test/accuracy": 0.2, "test/loss": 2.0},
        "cost": cost | changes.pop("cost", {}),
        "examples": {"train": 100, "val": 10, "test": 50},
        "fingerprint": {"test": "aaaa"},
    }
    return made | changes


def written(folder: Path, *results: dict[str, Any]) -> str:
    for i, one in enumerate(results):
        (folder / f"run{i}").mkdir(parents=True)
        write_result(folder / f"run{i}", one)
    return str(folder)


def printed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert compare.main(argv) == 0
    return capsys.readouterr().out


def first_words(text: str, *known: str) -> list[str]:
    words = [line.split()[0] for line in text.splitlines() if line.strip()]
    return [word for word in words if word in known]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


ALL = ("lora", "zero_shot", "partial_finetune", "(baseline)")


def test_best_comes_first_and_the_baseline_stands_where_it_belongs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        tmp_path, result("zero_shot", 0.1), result("lora", 0.8), result("partial_finetune", 0.9)
    )
    out = printed([path], capsys)
    assert first_words(out, *ALL) == ["partial_finetune", "lora", "(baseline)", "zero_shot"]
    assert f"best: {tmp_path / 'run2'}" in out
    assert "topics, classification, 50 test rows, model minilm, seed 0" in out


def test_where_lower_is_better_the_lowest_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def text(strategy: str, perplexity: float) -> dict[str, Any]:
        metrics = {"test/perplexity": perplexity, "test/loss": 1.0}
        return result(strategy, 0.0, task="language_modeling", metrics=metrics, baseline={})

    path = written(tmp_path, text("lora", 30.0), text("partial_finetune", 20.0))
    assert first_words(printed([path], capsys), *ALL) == ["partial_finetune", "lora"]


def test_another_metric_can_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(
        tmp_path,
        result("lora", 0.9, metrics={"test/accuracy": 0.9, "test/loss": 3.0}),
        result("zero_shot", 0.1, metrics={"test/accuracy": 0.1, "test/loss": 0.5}),
    )
    out = printed([path, "--metric", "test/loss"], capsys)
    assert first_words(out, *ALL) == ["zero_shot", "(baseline)", "lora"]
    with pytest.raises(UserError, match="did you mean test/accuracy"):
        compare.main([path, "--metric", "test/acuracy"])


def test_a_warm_cache_is_charged_what_it_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = {"fit_seconds": 0.5, "prefix_seconds": 33.0, "cache_hit": True}
    out = printed([written(tmp_path, result("lora", 0.9, cost=cost))], capsys)
    assert "33.5" in out


def test_runs_on_other_rows_or_tasks_stand_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        tmp_path,
        result("lora", 0.9),
        result("lora", 0.8, fingerprint={"test": "bbbb"}),
        result("lora", 0.7, task="instruction"),
        result("zero_shot", 0.6),
    )
    out = printed([path], capsys)
    assert "3 tables" in out and "numbers do not compare" in out
    assert out.count("test rows, model") == 3


def test_what_did_not_complete_is_said_last_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {"schema": 1, "status": "failed", "reason": "killed by signal 9"}
    path = written(
        tmp_path,
        bare,
        result("zero_shot", None, status="diverged", reason="the loss is [nan]", metrics={}),
        result("lora", 0.9),
        result("lora", None, status="running", reason=None, seed=1),
    )
    out = printed([path], capsys)
    assert out.index("best:") < out.index("diverged: zero_shot minilm seed 0: the loss is [nan]")
    assert "running: lora minilm seed 1" in out
    assert f"failed: ? ? seed ?: killed by signal 9 ({tmp_path / 'run0'})" in out
    table = printed([path, "--csv"], capsys)
    rows = list(csv.DictReader(io.StringIO(table)))
    assert rows[0]["status"] == "completed"
    assert len(rows) == 4


def test_nothing_but_unfinished_runs_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, result("lora", None, status="failed", reason="why", metrics={}))
    for form in ([], ["--markdown"], ["--csv"]):
        assert "why" in printed([path, *form], capsys)


def test_what_tells_runs_of_one_strategy_apart_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["strategy=lora", "seed=0", "tracking=none", "hydra.run.dir=x", "data.max_length=64"]
    path = written(
        tmp_path,
        result("lora", 0.9, overrides=[*common, "strategy.rank=16"]),
        result("lora", 0.8, overrides=[*common, "strategy.rank=2"]),
    )
    for form in ([], ["--markdown"]):
        out = printed([path, *form], capsys)
        assert out.index("lora (1)") < out.index("lora (2)")
        assert "(1) strategy.rank=16" in out and "(2) strategy.rank=2" in out
        assert "max_length" not in out and "hydra" not in out


def many() -> list[dict[str, Any]]:
    """As wide as it gets: long names, several models and seeds, large numbers."""
    heavy = {"fit_seconds": 123456.7, "total_seconds": 234567.8, "trainable_parameters": 7241732096}
    return [
        result(name, 0.5, model=model, seed=seed, cost=heavy)
        for name in ("partial_finetune", "feature_based")
        for model in ("mistral7b_instruct", "minilm")
        for seed in (0, 1)
    ]


def test_a_table_fits_into_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed([written(tmp_path, *many())], capsys)
    table = [line for line in out.splitlines() if not line.startswith(("best:", "topics"))]
    assert max(map(len, table)) <= 80
    for word in ("accuracy", "memory", "7.24B", "34.3h", "mistral7b_instruct", "partial_finetune"):
        assert word in out


def test_plain_forms_have_no_colour_and_every_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, *many())
    for form in ([], ["--csv"], ["--markdown"]):
        assert "\x1b" not in printed([path, *form], capsys)
    rows = list(csv.DictReader(io.StringIO(printed([path, "--csv"], capsys))))
    assert len(rows) == 8
    assert {row["test/accuracy"] for row in rows} == {"0.5"}
    assert {row["cost/trainable_parameters"] for row in rows} == {"7241732096"}
    markdown = printed([path, "--markdown"], capsys)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 8 + 3


def test_paths_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run"):
        compare.main([str(tmp_path)])
    with pytest.raises(UserError, match=r"there is no .*nowhere"):
        compare.main([str(tmp_path / "nowhere")])
    (tmp_path / "result.json").write_text("{half")
    with pytest.raises(UserError, match="is not valid JSON"):
        compare.main([str(tmp_path)])


def test_one_run_named_twice_is_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, result("lora", 0.9))
    out = printed([path, f"{path}/run0", f"{path}/run0/result.json"], capsys)
    assert first_words(out, "lora") == ["lora"]
