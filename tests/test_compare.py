"""`llmexp compare`: the right runs beside each other, in the right order, in 80 columns."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmexp.compare import command as compare
from llmexp.compare.statistics.difference import difference
from llmexp.compare.statistics.sample import Sample
from llmexp.compare.verdict import Verdict
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
    assert len(lines) == 4 + 3  # two seeds of each are one line


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


def answered(folder: Path, strategy: str, right: list[list[bool]], **changes: Any) -> str:
    """One run for each seed, with the answers it gave."""
    for seed, marks in enumerate(right):
        run = folder / f"{strategy}_{seed}"
        run.mkdir(parents=True)
        accuracy = sum(marks) / len(marks)
        metrics = {"test/accuracy": accuracy, "test/f1/yes": 0.5, "test/f1/no": 0.5}
        write_result(run, result(strategy, accuracy, seed=seed, metrics=metrics) | changes)
        rows = [
            {
                "index": i,
                "input": f"row {i}",
                "reference": "yes",
                "prediction": "yes" if mark else "no",
            }
            for i, mark in enumerate(marks)
        ]
        (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def marks(share: float, count: int = 1000, flipped: int = 0) -> list[bool]:
    """Right on the first part of the examples, but for a few."""
    made = [i < share * count for i in range(count)]
    return [mark != (i % 100 < flipped) for i, mark in enumerate(made)]


def test_runs_that_differ_in_seed_are_one_line_with_an_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(tmp_path, "lora", [marks(0.9), marks(0.9, flipped=1), marks(0.9, flipped=2)])
    answered(tmp_path, "zero_shot", [marks(0.7)] * 3)
    out = printed([str(tmp_path)], capsys)
    assert first_words(out, *ALL)[:3] == ["lora", "zero_shot", "(baseline)"]
    said = " ".join(out.split())
    assert re.search(r"lora 3 0\.892\d 0\.8[67]\d-0\.9[01]\d", said)
    assert re.search(r"lora is better than zero_shot by 1[5-8]\.\d to 2[0-3]\.\d points", said)
    assert "on the same 1,000 test examples; intervals cover seeds and test examples" in said
    assert "best for their price (total seconds): lora" in said
    csv_ = list(csv.DictReader(io.StringIO(printed([str(tmp_path), "--csv"], capsys))))
    assert {row["arm"] for row in csv_} == {"lora", "zero_shot"} and len(csv_) == 6
    assert "lora is better than zero_shot" in printed([str(tmp_path), "--markdown"], capsys)


def test_what_cannot_be_told_apart_says_what_would_be_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(tmp_path, "lora", [marks(0.9, flipped=1)])
    answered(tmp_path, "zero_shot", [marks(0.895)])
    said = " ".join(printed([str(tmp_path)], capsys).split())
    assert re.search(r"are not distinguishable: [\d,]+ more test examples would be needed", said)
    assert "one seed each: this is about these runs" in said
    assert "McNemar" in said


def test_more_examples_than_are_needed_do_tell_the_difference(tmp_path: Path) -> None:
    """The number that a verdict names, tried: a study of that size mostly finds it."""
    generator = np.random.default_rng(0)
    base = generator.random(800) < 0.8

    def drawn(count: int) -> Sample:
        kind = generator.choice(3, size=count, p=[0.065, 0.035, 0.9])
        same = generator.random(count) < 0.8
        first = np.where(kind == 0, 1, np.where(kind == 1, 0, same))
        return Sample.of_scores([first, np.where(kind == 0, 0, np.where(kind == 1, 1, same))])

    # Disagreeing on 10 %, 3 points apart, on 300 examples.
    first = np.where(np.arange(300) < 20, 1, np.where(np.arange(300) < 31, 0, base[:300]))
    second = np.where(np.arange(300) < 20, 0, np.where(np.arange(300) < 31, 1, base[:300]))
    sample = Sample.of_scores([first, second])
    verdict = Verdict("a", "b", difference(sample, [0], [1]), 0.5, "accuracy", sample, (1, 1), 1)
    more = int(re.sub(r"\D", "", verdict.sentence.split(":")[1]))
    found = [difference(drawn(300 + more), [0], [1]).p < 0.05 for _ in range(300)]
    assert 0.7 <= sum(found) / 300 <= 0.9


def test_a_key_can_gather_runs_and_says_what_else_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked = {"overrides": ["strategy=lora", "strategy.rank=2"]}
    answered(tmp_path / "a", "lora", [marks(0.9)], **ranked)
    ranked = {"overrides": ["strategy=lora", "strategy.rank=8"], "seed": 1}
    answered(tmp_path / "b", "lora", [marks(0.8)], **ranked)
    apart = printed([str(tmp_path)], capsys)
    assert first_words(apart, "lora").count("lora") >= 2
    together = printed([str(tmp_path), "--by", "strategy"], capsys)
    assert "lora: its runs differ in more than the seed (strategy.rank 2, 8)" in together
    named = printed([str(tmp_path), "--by", "strategy,strategy.rank"], capsys)
    assert "more than the seed" not in named
    with pytest.raises(UserError, match=r"--by: no run has strategy\.rnk; did you mean"):
        compare.main([str(tmp_path), "--by", "strategy.rnk"])


def test_a_seed_that_was_run_twice_is_no_second_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(tmp_path / "a", "lora", [marks(0.9), marks(0.9)])
    answered(tmp_path / "b", "lora", [marks(0.9)])
    out = " ".join(printed([str(tmp_path)], capsys).split())
    assert "lora: 1 of its runs repeat a seed; the latest of each counts" in out


def test_answers_that_do_not_belong_are_not_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other rows under the same fingerprint; none kept; a metric that the answers do not give."""
    answered(tmp_path, "lora", [marks(0.9)])
    answered(tmp_path, "zero_shot", [marks(0.8)])
    answered(tmp_path, "head_only", [marks(0.7, 500)])
    answered(tmp_path, "few_shot", [marks(0.7)])
    (tmp_path / "few_shot_0" / "predictions.jsonl").unlink()
    answered(tmp_path, "qlora", [marks(0.7)])
    changed = json.loads((tmp_path / "qlora_0" / "result.json").read_text())
    changed["metrics"]["test/accuracy"] = 0.99
    write_result(tmp_path / "qlora_0", changed)
    out = printed([str(tmp_path)], capsys)
    assert re.search(r"head_only_0 answered other test examples than \S+(lora|zero_shot)_0", out)
    assert "few_shot_0 has no predictions.jsonl" in out
    assert re.search(r"qlora_0: predictions.jsonl gives test/accuracy 0.7000 and .* 0.9900", out)
    assert "better than head_only" not in " ".join(out.split())


def test_tables_that_do_not_compare_name_their_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(tmp_path, "lora", [marks(0.9)])
    answered(tmp_path, "zero_shot", [marks(0.8)], fingerprint={"test": "bbbb"})
    out = printed([str(tmp_path)], capsys)
    assert re.search(r"table 2: \S+zero_shot_0 were tested on rows bbbb, not aaaa", out)
    lacking = result("few_shot", None, metrics={"test/loss": 1.0})
    (tmp_path / "few").mkdir()
    write_result(tmp_path / "few", lacking)
    assert re.search(
        r"no test/accuracy, so not compared by it: \S+few", printed([str(tmp_path)], capsys)
    )


def test_cheap_and_nearly_as_good_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cached features are charged what they cost, so they are no longer the cheapest."""
    warm = {"fit_seconds": 1.0, "prefix_seconds": 50.0, "cache_hit": True, "total_seconds": 2.0}
    path = written(
        tmp_path,
        result("lora", 0.900, cost={"total_seconds": 100.0}),
        result("head_only", 0.899, cost=warm),
        result("partial_finetune", 0.895, cost={"total_seconds": 30.0}),
        result("zero_shot", 0.5, cost={"total_seconds": 5.0}),
    )
    said = " ".join(printed([path], capsys).split())
    assert "cheapest within one point of the best: partial_finetune" in said
    assert "best for their price (total seconds): lora, head_only, partial_finetune, zero" in said


def test_parquet_holds_the_same_records_with_their_types(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    path = written(tmp_path / "runs", *many())
    printed([path, "--parquet", str(tmp_path / "all.parquet")], capsys)
    table = pq.read_table(tmp_path / "all.parquet")
    assert table.num_rows == 8
    assert table["test/accuracy"].to_pylist() == [0.5] * 8
    names = next(iter(csv.DictReader(io.StringIO(printed([path, "--csv"], capsys)))))
    assert list(names) == table.column_names
