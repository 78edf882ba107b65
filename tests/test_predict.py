"""`llmexp.load` and `llmexp predict`: the recorded answers again, and clear refusals."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import llmexp
from llmexp.cli import main
from llmexp.errors import UserError
from llmexp.jobs.results import write_result
from llmexp.predict.predictors import recorded_base
from tests import runs, tiny

STRATEGIES = ("full_finetune", "lora", "qlora")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    tiny.bert(root / "bert", labels=3)
    tiny.llama(root / "llama")
    encoder = ["model=local", f"model.path={root / 'bert'}", *runs.classified(root / "data")]
    for name in STRATEGIES:
        runs.finished(root / name, f"strategy={name}", *encoder, "data.max_length=64")
    decoder = ["model=local", f"model.path={root / 'llama'}", "strategy=lora"]
    runs.finished(root / "generator", *decoder, *runs.answered(root / "data"))
    runs.finished(root / "language_model", *decoder, *runs.written(root / "data"))
    return {name: root / name for name in (*STRATEGIES, "generator", "language_model")}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_gives_its_recorded_answers_again(name: str, finished: dict[str, Path]) -> None:
    rows = runs.predictions(finished[name])
    for path in (finished[name], finished[name] / "model"):
        answers = llmexp.load(str(path)).predict([row["input"] for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            assert answer["scores"] == pytest.approx(row["scores"], abs=1e-5)
        close = [max(row["scores"].values()) - sorted(row["scores"].values())[-2] for row in rows]
        same = [a["prediction"] == r["prediction"] for a, r in zip(answers, rows, strict=True)]
        assert all(s or gap < 1e-4 for s, gap in zip(same, close, strict=True))


def test_a_generator_gives_its_recorded_answers_again(finished: dict[str, Path]) -> None:
    rows = runs.predictions(finished["generator"])
    answers = llmexp.load(str(finished["generator"])).predict([row["input"] for row in rows])
    assert [a["prediction"].strip() for a in answers] == [row["prediction"] for row in rows]


def test_a_language_model_goes_on_with_a_text(finished: dict[str, Path]) -> None:
    predictor = llmexp.load(str(finished["language_model"]))
    first, second = predictor.predict(["the quick brown", "a question is asked and"])
    assert first.keys() == {"prediction"}
    assert predictor.predict(["a question is asked and"]) == [second]


def test_a_text_has_the_same_answer_alone_and_among_others(finished: dict[str, Path]) -> None:
    predictor = llmexp.load(str(finished["full_finetune"]))
    texts = ["the river", " ".join(tiny.TEXTS), "a name", ""]
    together = predictor.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        assert predictor.predict([text])[0]["scores"] == pytest.approx(answer["scores"], abs=1e-5)
    assert predictor.predict([]) == []


def test_the_command_shows_predictions_within_80_columns(
    finished: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(finished["lora"]), "the river", "a name " * 40]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "> the river"
    assert max(map(len, lines)) <= 80
    assert any(word in lines[1] for word in runs.LABELS)


def test_the_command_reads_lines_and_files_and_writes_json(
    finished: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.txt").write_text("the river\n\na name\n")
    (tmp_path / "a.jsonl").write_text('{"review": "the river"}\n{"review": "a name"}\n')
    monkeypatch.setattr("sys.stdin", io.StringIO("the river\na name\n"))
    run = str(finished["lora"])
    printed = []
    for given in (
        ["the river", "a name"],
        [],
        ["--file", str(tmp_path / "a.txt")],
        ["--file", str(tmp_path / "a.jsonl"), "--column", "review"],
    ):
        assert main(["predict", run, "--json", *given]) == 0
        printed.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert [row["input"] for row in printed[0]] == ["the river", "a name"]
    assert all(rows == printed[0] for rows in printed)
    with pytest.raises(UserError, match=r"a\.jsonl:1: no text in 'text'; it has review"):
        main(["predict", run, "--file", str(tmp_path / "a.jsonl")])


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        llmexp.load(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="is no run folder"):
        llmexp.load(str(tmp_path))
    result: dict[str, Any] = {"status": "diverged", "reason": "the loss is nan"}
    write_result(tmp_path, result | {"resume_command": "python run.py resume=auto"})
    with pytest.raises(UserError, match=r"diverged \(the loss is nan\); continue it with: python"):
        llmexp.load(str(tmp_path))
    write_result(tmp_path, {"status": "completed"})
    with pytest.raises(UserError, match="has no model/ folder"):
        llmexp.load(str(tmp_path))


def test_a_description_is_data_and_never_code(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    facts = {"schema": 1, "predictor": "os:system", "_target_": "os.system", "labels": []}
    for change in ({}, {"predictor": f"touch {trap}"}, {"predictor": ["classifier"]}):
        (tmp_path / "llmexp.json").write_text(json.dumps(facts | change))
        with pytest.raises(UserError, match="unknown predictor"):
            llmexp.load(str(tmp_path))
    (tmp_path / "llmexp.json").write_text(json.dumps(facts | {"schema": 2}))
    with pytest.raises(UserError, match="schema 1 only"):
        llmexp.load(str(tmp_path))
    (tmp_path / "llmexp.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        llmexp.load(str(tmp_path))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("revision", "runs_code"),
    [(None, False), ("main", False), ("a" * 40, True), ("A" * 40, False), ("a" * 40 + "\n", False)],
)
def test_code_from_elsewhere_needs_a_recorded_commit_and_a_person_who_trusts_it(
    revision: Any, runs_code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"path": "someone/model", "trust_remote_code": True, "revision": revision}
    assert recorded_base({"base": base}).trust_remote_code is False
    monkeypatch.setenv("LLMEXP_ALLOW", "someone/model")
    assert recorded_base({"base": base}).trust_remote_code is runs_code
    with pytest.raises(UserError, match=r"base\._target_"):
        recorded_base({"base": {**base, "_target_": "os.system"}})
