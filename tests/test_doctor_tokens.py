"""What of the rows would stop a run: the doctor says `fails` exactly where the run ends so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmexp.doctor import splits
from llmexp.doctor.page import page
from llmexp.errors import UserError
from tests import doctoring, runs, tiny
from tests.doctoring import ids, looked_at, of


@pytest.fixture(scope="module")
def doctored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return doctoring.models(tmp_path_factory.mktemp("models"))


SHORT = "the quick brown fox"
LONG = " ".join(tiny.TEXTS)


def rows(path: Path, long: tuple[int, ...] = (), count: int = 24) -> Path:
    """Short rows of three classes, those in `long` too long for 40 tokens."""
    made = [
        {"text": f"{LONG if i in long else SHORT} {i}", "label": runs.LABELS[i % 3]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def posed(folder: Path, **long: tuple[int, ...]) -> list[str]:
    names = ("train", "validation", "test")
    made = [f"data.{n}={rows(folder / f'{n}.jsonl', long.get(n, ()))}" for n in names]
    return ["data=classification", *made, "data.max_length=40", "data.batch_size=8"]


def stopped(folder: Path, *overrides: str) -> str | None:
    """What a run with these overrides ends with, where it does not come to its end."""
    try:
        runs.finished(folder, *overrides, "cache.enabled=false")
    except UserError as error:
        return str(error)
    return None


BUDGETS = ["classified", "answered", "written", "packed"]


@pytest.mark.parametrize("kind", BUDGETS)
def test_a_budget_that_holds_not_every_row_fails(
    tmp_path: Path, kind: str, doctored: dict[str, list[str]]
) -> None:
    """The doctor's verdict is the run's end, and its fix is the smallest budget that works."""
    model = doctored["bert" if kind == "classified" else "llama"]
    data = getattr(runs, "written" if kind == "packed" else kind)(tmp_path / "data")
    given = [*model, *data, "strategy=head_only", "data.packing=true"][
        : None if kind == "packed" else -1
    ]
    small = looked_at(*given, "data.tokens_per_batch=5")
    found = of(small, "tokens_per_batch")
    assert found.level == "fails" and small.exit_code == 2
    assert "data.tokens_per_batch" in str(
        stopped(tmp_path / "small", *given, "data.tokens_per_batch=5")
    )
    enough = int(found.fix.partition("=")[2])
    assert "tokens_per_batch" not in ids(looked_at(*given, found.fix))
    assert stopped(tmp_path / "enough", *given, found.fix) is None
    assert of(looked_at(*given, f"data.tokens_per_batch={enough - 1}"), "tokens_per_batch")


def test_a_budget_that_no_training_reads_is_no_failure(
    tmp_path: Path, doctored: dict[str, list[str]]
) -> None:
    data = runs.classified(tmp_path / "data")
    for strategy in ("zero_shot", "feature_based"):
        given = [*doctored["bert"], *data, f"strategy={strategy}", "data.tokens_per_batch=5"]
        assert "tokens_per_batch" not in ids(looked_at(*given))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_row_that_overflow_refuses_fails_wherever_it_stands(
    tmp_path: Path, doctored: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    """Also where no sample would have drawn it; the number is the row's in its split."""
    monkeypatch.setattr(splits, "SAMPLE", 3)
    given = [*doctored["bert"], *posed(tmp_path, **{split: (19,)}), "strategy=head_only"]
    report = looked_at(*given, "data.overflow=error")
    found = of(report, "overflow")
    assert report.exit_code == 2 and f"row 19 of {split}" in found.message and SHORT in LONG
    assert "row 19 " in str(stopped(tmp_path / "run", *given, "data.overflow=error"))
    mended = looked_at(*given, found.fix)
    assert mended.verdict != "fails" and "overflow" not in ids(mended)
    # What is looked at is shown all the same.
    assert report.sections["tokens"]["sample"] == 24
    assert report.sections["splits"][split]["too_long"]


@pytest.mark.parametrize("overflow", ["truncate", "drop"])
def test_counts_of_every_split_are_those_of_the_run_and_on_the_page(
    tmp_path: Path,
    doctored: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overflow: str,
) -> None:
    """Of all rows where all were tokenised, though a sample would have drawn three."""
    monkeypatch.setattr(splits, "SAMPLE", 3)
    data = posed(tmp_path, train=(2, 5, 19), validation=(4, 7), test=(11,))
    given = [*doctored["bert"], *data, f"data.overflow={overflow}", "strategy=head_only"]
    report = looked_at(*given)
    assert of(report, "too_long").message.startswith("3 of 24 rows are longer")
    name = "truncated" if overflow == "truncate" else "dropped"
    ran = runs.finished(tmp_path / "run", *given, "cache.enabled=false")["encoding"]
    page(report)
    said = " ".join(capsys.readouterr().out.split())
    for split, count in {"train": 3, "validation": 2, "test": 1}.items():
        left = 24 if overflow == "truncate" else 24 - count
        assert ran[split][name] == count and ran[split]["rows"] == left
        assert report.sections["splits"][split]["counts"] == {name: count}
        assert f"{split} 24 rows, {count} too long, {count} {name}; {left} to read" in said


def test_earlier_answers_that_truncation_loses_are_counted(
    tmp_path: Path, doctored: dict[str, list[str]]
) -> None:
    """One is cut away, one is cut into, so that it is learned no more; the last stays whole."""
    turns = [(SHORT, f"answer {SHORT}") for _ in range(3)]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    file = tmp_path / "chats.jsonl"
    short = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [json.dumps({"messages": rows}) for rows in [messages, *[short] * 11]]
    file.write_text("\n".join(lines))
    given = [*doctored["llama"], "data=instruction", f"data.train={file}", f"data.test={file}"]
    given += [f"data.validation={file}", "data.template=plain", "strategy=head_only"]
    given += ["data.max_length=45", "data.generation.examples=0", "cache.enabled=false"]
    counts = {"truncated": 1, "answers_lost": 2}
    report = looked_at(*given)
    assert report.sections["splits"]["train"]["counts"] == counts
    assert "1 truncated, 2 answers lost" in of(report, "too_long").message
    ran = runs.finished(tmp_path / "run", *given)["encoding"]["train"]
    assert counts.items() <= ran.items()
    last = looked_at(*given, "data.train_on=last_answer").sections["splits"]["train"]
    assert last["counts"] == {"truncated": 1}


def test_where_only_a_sample_is_looked_at_it_is_said(
    tmp_path: Path, doctored: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "SAMPLE", 4)
    monkeypatch.setattr(splits, "MOST_ROWS", 10)
    given = [*doctored["bert"], *posed(tmp_path), "strategy=head_only"]
    report = looked_at(*given, "data.overflow=error", "data.tokens_per_batch=20")
    said = [f.message for f in report.findings if f.id == "sample_only"]
    assert len(said) == 4 and all("only 4 of the" in text for text in said)
    fixes = {f.fix for f in report.findings if f.id == "sample_only"}
    assert fixes == {"data.overflow=truncate", "data.tokens_per_batch=40"}
    assert "sample_only" not in ids(looked_at(*given, *fixes))
    # A row that is drawn and too long is named by its number in the split.
    every = tuple(range(24))
    worse = looked_at(*doctored["bert"], *posed(tmp_path, train=every), "data.overflow=error")
    drawn = splits.drawn(24)
    assert len(drawn) == 4 and f"row {drawn[0]} of train" in of(worse, "overflow").message


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_of_which_nothing_is_left_fails(
    tmp_path: Path, doctored: dict[str, list[str]], split: str
) -> None:
    every = {split: tuple(range(24))}
    given = [*doctored["bert"], *posed(tmp_path, **every), "strategy=head_only"]
    report = looked_at(*given, "data.overflow=drop")
    found = of(report, "no_rows_left")
    assert report.exit_code == 2 and f"data.{split}:" in found.message
    assert f"data.{split}" in str(stopped(tmp_path / "run", *given, "data.overflow=drop"))
    mended = looked_at(*given, "data.overflow=drop", found.fix)
    assert "no_rows_left" not in ids(mended)
    assert stopped(tmp_path / "mended", *given, "data.overflow=drop", found.fix) is None


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_held_out_rows_at_all_are_one_sentence(
    tmp_path: Path, doctored: dict[str, list[str]], split: str
) -> None:
    given = [*doctored["bert"], *posed(tmp_path), "strategy=head_only"]
    given += [f"data.{split}=null", f"data.{split}_fraction=0.0"]
    assert f"data.{split}: the split is empty" in str(stopped(tmp_path / "run", *given))
    report = looked_at(*given)
    assert report.exit_code == 2 and split in of(report, "config").message
    assert of(report, "config").fix == f"data.{split}_fraction=0.1"
    assert looked_at(*given, of(report, "config").fix).verdict != "fails"


def test_a_stream_is_said_to_be_looked_at_in_part(
    tmp_path: Path, doctored: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its overlap is not complete, and the page prints what was noted while it was read."""
    file = tmp_path / "pairs.jsonl"
    lines = [{"prompt": tiny.TEXTS[i % 3], "completion": runs.LABELS[i % 3]} for i in range(12)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = [*doctored["llama"], "data=instruction", f"data.train={file}", f"data.test={file}"]
    given += [f"data.validation={file}", "strategy=lora", "trainer.max_steps=1"]
    whole = looked_at(*given)
    assert whole.overlap["complete"] and whole.sections["splits"]["train"]["looked_at"] == 12
    report = looked_at(*given, "data.streaming=true")
    assert not report.overlap["complete"]
    (note,) = [text for text in report.sections["notes"] if "first 12 rows" in text]
    page(report)
    printed = " ".join(capsys.readouterr().out.split())
    assert " ".join(note.split())[:60] in printed and "(not of all rows)" in printed
