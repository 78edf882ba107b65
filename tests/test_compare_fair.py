"""`llmexp compare`: what may be averaged, ranked and tested, and what is refused by name."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from llmexp.compare import command as compare
from llmexp.compare.arms import arms
from llmexp.compare.evidence import evidence
from llmexp.compare.measures import measures
from llmexp.compare.settings import settings
from llmexp.compare.statistics.difference import difference
from llmexp.compare.statistics.sample import Sample
from llmexp.compare.verdict import Verdict
from llmexp.errors import UserError
from llmexp.jobs.results import write_result
from llmexp.sweeps.identity import identity
from tests.test_compare import answered, marks, printed, result, written


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def ranked(folder: Path, rank: int, share: float) -> None:
    lines = ["strategy=lora", f"strategy.rank={rank}"]
    answered(folder / f"rank-{rank}", "lora", [marks(share)], overrides=lines)


def test_other_settings_of_one_seed_are_never_thrown_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is the best of them, nor their mean, how good the strategy is."""
    for rank, share in ((1, 0.5), (16, 0.9), (8, 0.6)):
        ranked(tmp_path, rank, share)
    answered(tmp_path / "z", "zero_shot", [marks(0.7)])
    with pytest.raises(UserError, match=r"seed 0 differ .*strategy\.rank .*add strategy\.rank to"):
        compare.main([str(tmp_path), "--by", "strategy"])
    out = printed([str(tmp_path), "--by", "strategy,strategy.rank"], capsys)
    assert "0.9000" in out and "0.6000" in out and "0.5000" in out


def test_arms_that_differ_in_many_keys_have_names_of_their_own(tmp_path: Path) -> None:
    """Four keys of two values: sixteen arms, each with its interval, and every pair of them."""
    keys = ("optim.learning_rate", "strategy.rank", "strategy.alpha", "model.dropout")
    for n, values in enumerate(itertools.product((1, 2), repeat=4)):
        lines = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
        answered(tmp_path / str(n), "lora", [marks(0.5 + 0.02 * n)], overrides=lines)
    (study,) = compare.studied(compare.find(tmp_path))
    assert len({arm.name for arm in study.arms}) == len(study.arms) == 16
    assert len(study.evidence.intervals) == 16 and len(study.evidence.verdicts) == 120
    for arm in study.arms:
        found = study.interval(arm)
        assert found is not None and found.mean == pytest.approx(study.quality(arm))


def test_arms_that_read_other_rows_or_share_words_have_names_of_their_own(tmp_path: Path) -> None:
    """The train file was edited between two sweeps; and `--by` may join values to one text."""
    for n, (rank, rows) in enumerate(itertools.product((1, 2), ("before", "after"))):
        facts = {
            "overrides": [f"strategy.rank={rank}"],
            "fingerprint": {"test": "a", "train": rows},
        }
        answered(tmp_path / str(n), "lora", [marks(0.5 + 0.1 * n)], **facts)
    (study,) = compare.studied(compare.find(tmp_path))
    assert len({arm.name for arm in study.arms}) == len(study.arms) == 4
    assert study.arms[0].name == "lora rank=2 train rows=after"
    joined = [
        result("lora", 0.5, overrides=[f"a={a}", f"b={b}"]) for a, b in (("x y", "z"), ("x", "y z"))
    ]
    names = [arm.name for arm in arms(joined, ["a", "b"])]
    assert names == ["x y z #1", "x y z #2"]


def test_a_mean_and_its_interval_are_of_the_same_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One seed of three without answers: the mean is over three, so two of them prove nothing."""
    answered(tmp_path, "lora", [marks(0.9), marks(0.9), marks(0.3)])
    answered(tmp_path, "zero_shot", [marks(0.7), marks(0.7), marks(0.7)])
    answered(tmp_path, "head_only", [marks(0.6), marks(0.6), marks(0.6)])
    (tmp_path / "lora_2" / "predictions.jsonl").unlink()
    lacking = json.loads((tmp_path / "head_only_2" / "result.json").read_text())
    write_result(tmp_path / "head_only_2", lacking | {"metrics": {"test/loss": 1.0}})
    said = " ".join(printed([str(tmp_path)], capsys).split())
    assert "lora 3 0.7000 - " in said
    assert "lora: 1 of 3 runs cannot be tested, so the arm has neither interval nor" in said
    assert "head_only 2 0.6000 0.5" in said
    (study,) = compare.studied(compare.find(tmp_path))
    assert [(v.first, v.second) for v in study.evidence.verdicts] == [("zero_shot", "head_only")]
    for arm, found in study.evidence.intervals.items():
        assert found.low <= (study.quality(arm) or 0.0) <= found.high


def test_a_label_that_some_tables_lack_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed run has no labels, and other rows may have others."""
    answered(tmp_path, "lora", [marks(0.9)])
    other = result("lora", 0.5, fingerprint={"test": "b"})
    other["metrics"] |= {"test/f1/great": 0.5}
    failed = {"schema": 1, "status": "failed", "reason": "killed by signal 9"}
    for name, one in (("other", other), ("failed", failed)):
        (tmp_path / name).mkdir()
        write_result(tmp_path / name, one)
    for metric in ("test/f1/yes", "test/f1/great"):
        assert "killed by signal 9" in printed([str(tmp_path), "--metric", metric], capsys)


def test_an_answer_that_is_no_label_counts_for_none() -> None:
    (measure,) = measures("test/f1/yes", ["no", "yes"])
    rows = [{"reference": "yes", "prediction": said} for said in ("yes", "perhaps", None)]
    assert measure.value(measure.parts(rows).mean(axis=0)) == pytest.approx(0.5)


def test_of_equal_runs_the_one_that_ended_last_counts(tmp_path: Path) -> None:
    """Not the one whose folder is named last; an old result by the date of its file."""
    first, second = (
        result("lora", accuracy, ended=ended, folder=folder)
        for accuracy, ended, folder in ((0.9, 2000.0, "run-9"), (0.8, 3000.0, "run-10"))
    )
    for order in ([first, second], [second, first]):
        (arm,) = arms(order)
        assert arm.runs == [second] and "the latest of each counts" in arm.notes[0]
    path = Path(written(tmp_path, result("lora", 0.5), result("lora", 0.6)))
    for name, moment in (("run0", 3000), ("run1", 2000)):
        os.utime(path / name / "result.json", (moment, moment))
    (arm,) = arms(compare.find(path))
    assert arm.mean("metrics", "test/accuracy") == 0.5


def test_an_arm_is_what_a_sweep_calls_the_same_job(tmp_path: Path) -> None:
    """One list says what changes no number: how often it is logged, where it is cached."""
    made = []
    for seed, often in ((0, 1), (1, 50)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tree: dict[str, Any] = {
            "seed": seed,
            "name": f"run{seed}",
            "strategy": {"rank": 8},
            "trainer": {"max_epochs": 1, "log_every_n_steps": often, "profiler": None},
            "data": {"train": f"cache{seed}/rows"},
            "cache": {"dir": f"cache{seed}"},
        }
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(tree)))
        made.append(result("lora", 0.5, seed=seed, folder=str(folder)))
    (arm,) = arms(made)
    assert arm.seeds == 2 and arm.notes == ()
    assert settings(made[0]) == settings(made[1])
    assert settings(made[0])["strategy.rank"] == "8"
    trees = [OmegaConf.to_container(OmegaConf.load(tmp_path / n / "config.yaml")) for n in "01"]
    alike: list[Any] = [{**dict(t), "seed": 0} for t in trees]  # type: ignore[arg-type]
    assert identity(alike[0]) == identity(alike[1])


def texts(folder: Path, tokens: dict[str, int]) -> str:
    """Language models of equal bits a byte, whose tokenizers make so many tokens of a row."""
    generator = np.random.default_rng(0)
    for model, count in tokens.items():
        nats = [300 + 3 * float(x) for x in generator.normal(size=100)]
        rows = [
            {"index": i, "nats": n, "tokens": count, "right": 0, "bytes": 400}
            for i, n in enumerate(nats)
        ]
        loss = sum(nats) / 100 / count
        metrics = {"test/perplexity": math.exp(loss), "test/loss": loss}
        metrics["test/bits_per_byte"] = sum(nats) / math.log(2) / 400 / 100
        run = folder / model
        run.mkdir(parents=True)
        (run / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        facts: dict[str, Any] = {"task": "language_modeling", "model": model, "baseline": {}}
        write_result(run, result("lora", None, metrics=metrics, **facts))
    return str(folder)


def test_perplexities_of_other_tokenizers_are_neither_tested_nor_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = texts(tmp_path / "runs", {"gpt2": 100, "char": 400, "other": 100})
    said = " ".join(printed([path], capsys).split())
    assert "not distinguishable" in said and "cheapest within 1 % of the best" in said
    assert "bits_per_byte" in said.split("──")[0]
    asked = " ".join(printed([path, "--metric", "test/perplexity"], capsys).split())
    assert "test/perplexity is per token, and the test rows are other tokens to" in asked
    assert asked.count("runs/char") == 1 and "--metric test/bits_per_byte compares them" in asked
    assert "cheapest" not in asked and "best for their price" not in asked
    # The two that share a tokenizer are tested still.
    for metric in ("test/perplexity", "test/loss"):
        (study,) = compare.studied(compare.find(Path(path)), metric)
        assert [{v.first, v.second} for v in study.evidence.verdicts] == [
            {"lora gpt2", "lora other"}
        ]
        assert study.front() == [] and study.cheapest_near_best() is None
    page = tmp_path / "page.html"
    compare.main([path, "--metric", "test/perplexity", "--html", str(page)])
    assert "neither tested nor ranked" in page.read_text()


def test_one_tokenizer_is_compared_by_perplexity_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed([texts(tmp_path / "runs", {"gpt2": 100, "other": 100})], capsys)
    assert "per token" not in said and "best for their price" in said
    assert said.index("perplexity") < said.index("bits_per_byte")


def test_a_page_of_runs_without_the_metric_has_no_scatter(tmp_path: Path) -> None:
    path = written(tmp_path / "runs", result("lora", None, metrics={"val/loss": 1.0}, baseline={}))
    compare.main([path, "--html", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    assert "Quality against cost" not in text and "Every run" in text


def verdict(sample: Sample, first: list[int], second: list[int], metric: str = "test/loss") -> str:
    found = difference(sample, first, second)
    seeds = (len(first), len(second))
    return Verdict("a", "b", found, found.p, metric, sample, seeds, 1).sentence


def test_arms_that_answer_alike_need_no_more_examples() -> None:
    numbers = np.random.default_rng(0).normal(size=(1, 500)) ** 2
    for bounded in (False, True):
        sample = Sample.of_scores(np.repeat(numbers / 99, 4, axis=0), bounded=bounded)
        alike = "a and b are not distinguishable: they answer alike"
        assert verdict(sample, [0], [1]) == verdict(sample, [0, 1], [2, 3]) == alike
    # As many right ones, but others: nothing to plan for, and a bound on what there may be.
    crossed = Sample.of_scores([[1, 0] * 50, [0, 1] * 50])
    assert "any difference is below" in verdict(crossed, [0], [1], "test/accuracy")


def test_where_seeds_limit_seeds_are_what_is_needed() -> None:
    """And so many are enough, four times in five."""
    generator = np.random.default_rng(1)
    hard = generator.normal(0, 0.1, 300)

    def drawn(seeds: int) -> Sample:
        lucky = generator.normal(0, 0.05, (2 * seeds, 1))
        lucky[:seeds] += 0.05
        return Sample.of_scores(
            hard + lucky + generator.normal(0, 0.02, (2 * seeds, 300)), bounded=False
        )

    # Seeds exactly as far apart as they are on average: a plan of noisy numbers is noisy.
    exact = np.array([1.0, 0.0, -1.0]) * 0.05
    scores = hard + np.concatenate([exact + 0.05, exact])[:, None]
    sample = Sample.of_scores(scores + generator.normal(0, 1e-3, (6, 300)), bounded=False)
    said = verdict(sample, [0, 1, 2], [3, 4, 5])
    assert "about " in said and "seeds of each would be needed" in said, said
    seeds = int(said.split("about ")[1].split()[0])
    found = [
        difference(drawn(seeds), list(range(seeds)), list(range(seeds, 2 * seeds))).p < 0.05
        for _ in range(200)
    ]
    assert 0.7 <= sum(found) / 200 <= 0.9


@pytest.mark.parametrize(
    ("seeds", "both", "examples", "said"),
    [
        (0.02, 0.20, 0.0, r"about 5 seeds of each would be needed"),
        (0.01, 0.20, 0.0, r"about 5 seeds of each or 520 more test examples would be needed"),
        (0.00, 0.01, 1.0, r"\d+ more test examples would be needed"),
    ],
)
def test_of_two_ways_the_shorter_one_is_named_first(
    seeds: float, both: float, examples: float, said: str
) -> None:
    """A difference just too small to be seen; what hides it says what is needed.

    No thousands of examples where two more seeds are enough, and a way that takes ten times as
    much is not named at all.
    """
    generator = np.random.default_rng(2)
    noise = generator.normal(0, both, (6, 300))
    noise += np.repeat(generator.normal(0, examples, (2, 300)), 3, axis=0)
    noise -= noise.mean(axis=1, keepdims=True)
    noise += np.array([1.0, 0.0, -1.0] * 2)[:, None] * seeds
    for step in np.geomspace(1.0, 1e-4, 400):
        scores = noise + step * np.array([1.0] * 3 + [0.0] * 3)[:, None]
        sample = Sample.of_scores(scores, bounded=False)
        if difference(sample, [0, 1, 2], [3, 4, 5]).p > 0.06:
            break
    assert re.search(rf": {said}$", verdict(sample, [0, 1, 2], [3, 4, 5]))


def test_one_point_behind_is_within_one_point() -> None:
    """0.90 - 0.89 is more than 0.01 in binary."""
    runs = [
        result("lora", 0.90, cost={"total_seconds": 100.0}),
        result("head_only", 0.89, cost={"total_seconds": 10.0}),
        result("zero_shot", 0.8899, cost={"total_seconds": 1.0}),
    ]
    (study,) = compare.studied(runs)
    cheapest = study.cheapest_near_best()
    assert cheapest is not None and cheapest.name == "head_only"
    assert evidence(study.arms, "test/accuracy").verdicts == []
