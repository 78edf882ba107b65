"""What single answers say: scores of a corpus with their chance, and where arms go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmexp.compare import command as compare
from llmexp.compare.arms import arms
from llmexp.compare.measures import measures
from llmexp.compare.report.examples import Examples, examples
from llmexp.compare.statistics.interval import interval
from llmexp.compare.statistics.sample import Sample
from llmexp.jobs.results import write_result
from llmexp.tasks.written_scores import written_scores
from tests.test_compare import result

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "quickly", ",", "."]


def written(generator: np.random.Generator, count: int, wrong: float) -> list[dict[str, Any]]:
    """Answers in which a share of the words is another one, some cut short, one empty."""
    rows = []
    for i in range(count):
        reference = [str(w) for w in generator.choice(WORDS, size=generator.integers(1, 15))]
        said = [
            str(generator.choice(WORDS)) if generator.random() < wrong else word
            for word in reference[: len(reference) - int(i % 5 == 1)]
        ]
        rows.append({"index": i, "reference": " ".join(reference), "prediction": " ".join(said)})
    rows[3]["prediction"] = ""
    return rows


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_counts_of_answers_add_up_to_the_score_of_the_corpus(metric: str) -> None:
    """As torchmetrics has it, of any corpus; nothing right is nothing."""
    generator = np.random.default_rng(0)
    (measure,) = measures(f"test/{metric}", [])
    for count, wrong in ((4, 0.0), (30, 0.1), (30, 0.5), (12, 1.0)):
        rows = written(generator, count, wrong)
        value = float(measure.value(measure.parts(rows).mean(axis=0)))
        assert value == pytest.approx(written_scores(rows)[metric], abs=1e-6)
    nothing = [{"index": 0, "reference": "xyz", "prediction": "qqq"}]
    assert measure.value(measure.parts(nothing).mean(axis=0)) == 0


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_score_of_a_corpus_has_an_interval_that_covers(metric: str) -> None:
    """The truth is the score of all the answers that a test set is drawn from."""
    generator = np.random.default_rng(1)
    (measure,) = measures(f"test/{metric}", [])
    everything = measure.parts(written(generator, 400, 0.2))
    truth = float(measure.value(everything.mean(axis=0)))
    held = 0
    worlds = 300
    for _ in range(worlds):
        drawn = everything[generator.integers(0, len(everything), 80)]
        found = interval(Sample(drawn[None], measure.value), [0])
        held += found.low <= truth <= found.high
    # 93-97 % of 1,000; of 300, what lies as many standard errors from 95 %.
    assert abs(held / worlds - 0.95) <= 0.02 * np.sqrt(1000 / worlds)


def kept(folder: Path, name: str, rows: list[dict[str, Any]], **changes: Any) -> None:
    """A run of an instruction task with its answers."""
    run = folder / name
    run.mkdir(parents=True)
    metrics = {f"test/{k}": v for k, v in written_scores(rows).items()}
    write_result(run, result(name, None, metrics=metrics, task="instruction", **changes))
    lines = [json.dumps({"input": "say", **row}) for row in rows]
    (run / "predictions.jsonl").write_text("\n".join(lines) + "\n")


def test_two_models_are_told_apart_by_bleu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    good = written(np.random.default_rng(2), 120, 0.1)
    bad = written(np.random.default_rng(3), 120, 0.6)
    bad = [{**b, "reference": g["reference"]} for b, g in zip(bad, good, strict=True)]
    kept(tmp_path, "lora", good)
    kept(tmp_path, "zero_shot", bad)
    for metric in ("test/bleu", "test/chrf"):
        assert compare.main([str(tmp_path), "--metric", metric]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "lora is better than zero_shot by" in said
        assert "paired bootstrap on the same 120 test examples" in said


# Label and length of six test rows, and what two arms of two seeds each answered.
TRUTH = ["a", "a", "b", "b", "c", "c"]
INPUTS = ["x", "x x", "x x x", "x x x x", "x x x x x", "x x x x x x"]
FIRST = [["a", "a", "b", "b", "c", "a"], ["a", "a", "b", "c", "c", "a"]]
SECOND = [["a", "b", "b", "b", "b", "a"], ["a", "b", "b", "b", "b", "a"]]


@pytest.fixture
def known(tmp_path: Path) -> Examples:
    runs = []
    for name, every in (("lora", FIRST), ("zero_shot", SECOND)):
        for seed, said in enumerate(every):
            run = tmp_path / f"{name}{seed}"
            run.mkdir()
            accuracy = sum(s == t for s, t in zip(said, TRUTH, strict=True)) / 6
            metrics = {"test/accuracy": accuracy} | {f"test/f1/{label}": 0.5 for label in "abc"}
            rows = [
                {"index": i, "input": INPUTS[i], "reference": TRUTH[i], "prediction": said[i]}
                for i in range(6)
            ]
            (run / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            runs.append(
                result(name, accuracy, seed=seed, metrics=metrics, folder=str(run))
                | {"overrides": [f"strategy={name}"]}
            )
    found = examples(arms(runs))
    assert found is not None and found.arms == ["lora", "zero_shot"]
    return found


def test_the_hardest_examples_are_those_that_most_runs_got_wrong(known: Examples) -> None:
    """Row 5 nobody got right; half right on average is not hard."""
    assert known.scores.tolist() == [[1, 1, 1, 0.5, 1, 0], [1, 0, 1, 1, 0, 0]]
    assert [row["index"] for row in known.hardest()] == [5]
    (row,) = known.hardest()
    assert row["reference"] == "c" and row["input"] == INPUTS[5]
    assert [(a["arm"], a["said"], a["score"]) for a in row["answers"]] == [
        ("lora", "a", 0.0),
        ("zero_shot", "a", 0.0),
    ]


def test_disagreements_are_examples_that_one_has_right_and_the_other_wrong(
    known: Examples,
) -> None:
    """Row 3 is not clear: one seed of two has it right."""
    (one,) = known.disagreements()
    assert (one.first, one.second, one.count) == ("lora", "zero_shot", 2)
    assert [row["index"] for row in one.rows] == [1, 4]


def test_confusions_are_counted_by_label(known: Examples) -> None:
    assert known.labels == ["a", "b", "c"]
    assert known.confusion(0) == [[2, 0, 0], [0, 2, 0], [1, 0, 1]]
    assert known.confused(0) == [("c", "a", 1)]
    assert known.confusion(1) == [[1, 1, 0], [0, 2, 0], [1, 1, 0]]
    assert known.confused(1) == [("a", "b", 1), ("c", "b", 1), ("c", "a", 1)]


def test_accuracy_by_label_and_by_length(known: Examples) -> None:
    names, values = known.by_label()
    assert names == ["a (2)", "b (2)", "c (2)"]
    assert values == [[1.0, 0.75, 0.5], [0.5, 1.0, 0.0]]
    names, values = known.by_length()
    assert names == ["1-2 words", "3-4 words", "5-5 words", "6-6 words"]
    assert values == [[1.0, 0.75, 1.0, 0.0], [0.5, 1.0, 0.0, 0.0]]
