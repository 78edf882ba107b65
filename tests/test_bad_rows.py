"""Rows that cannot be used: refused with file and line, or left out up to a ceiling and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmexp.data.encodings import readable_as
from llmexp.data.sources import load_examples
from llmexp.errors import UserError
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from tests import runs, tiny

TREC = r"(?P<label>[A-Z]+):\S+ (?P<text>.*)"
GOOD = [{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(40)]
# What may be wrong with one line of a jsonl file, and what is said about it.
BAD_LINES = {
    '{"text": "cut o': r"not valid JSON .*'\{\"text\": \"cut o'",
    "[1, 2]": r"expected an object with named fields, found '\[1, 2\]'",
    '{"text": 5, "label": "a"}': r"column 'text': expected text, found int '5'",
    '{"text": "x", "label": 3}': r"column 'label': expected str as in the rows before, found int 3",
    '{"text": "x"}': r"there is no column 'label' for data.columns.label in .*'text': 'x'",
    '{"text": "x", "label": null}': r"column 'label': the label is missing: .*'text': 'x'",
}


def written(path: Path, *bad: str | bytes) -> Path:
    """Good rows with bad lines in the middle: the first of them is line 21."""
    lines: list[str | bytes] = [json.dumps(row) for row in GOOD]
    lines[20:20] = bad
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return path


@pytest.mark.parametrize(("line", "sentence"), BAD_LINES.items())
def test_a_bad_row_is_refused_with_file_and_line_or_left_out(
    tmp_path: Path, line: str, sentence: str
) -> None:
    path = written(tmp_path / "rows.jsonl", line)
    with pytest.raises(UserError, match=rf"rows.jsonl:21: {sentence}"):
        load_examples(Classification(train=str(path)))
    examples = load_examples(Classification(train=str(path), on_bad_row="skip", max_bad_rows=1))
    clean = load_examples(Classification(train=str(written(tmp_path / "clean.jsonl"))))
    assert examples.fingerprint == clean.fingerprint
    assert (examples.bad, clean.bad) == (1, 0)
    assert any(f"1 of 41 rows of {path} cannot be used" in note for note in examples.notes)


@pytest.mark.parametrize(("ceiling", "fits"), [(3, True), (2, False), (0.1, True), (0.05, False)])
def test_the_ceiling_is_rows_or_a_fraction(tmp_path: Path, ceiling: float, fits: bool) -> None:
    path = written(tmp_path / "rows.jsonl", *["{"] * 3)
    task = Classification(train=str(path), on_bad_row="skip", max_bad_rows=ceiling)
    if fits:
        assert load_examples(task).bad == 3
        return
    with pytest.raises(UserError, match=r"data.max_bad_rows: 3 .*mend the first: .*jsonl:21: "):
        load_examples(task)


def test_records_of_a_table_and_lines_of_a_pattern(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    body = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(30))
    table.write_text(f"text,label\n{body}one,two,three\n")
    task: dict[str, Any] = {"on_bad_row": "skip", "max_bad_rows": 1}
    assert load_examples(Classification(train=str(table), **task)).bad == 1
    lines = tmp_path / "rows.txt"
    lines.write_text("".join(f"AB:x text {i}\nCD:y text {i}\n" for i in range(15)) + "nothing\n")
    assert load_examples(Classification(train=str(lines), pattern=TREC, **task)).bad == 1
    for at in (5, 30):  # in the middle, and the last line
        records = body.splitlines(keepends=True)
        records.insert(at, '"bad" quote,a\n')
        table.write_text("".join(["text,label\n", *records]))
        examples = load_examples(Classification(train=str(table), **task))
        assert examples.bad == 1 and sum(n or 0 for n in examples.counts().values()) == 30
        with pytest.raises(UserError, match=rf"rows.csv:{at + 2}: not valid csv .*: '\"bad\" quo"):
            load_examples(Classification(train=str(table)))
    table.write_text(f'"text" ,label\n{body}')
    with pytest.raises(UserError, match=r"rows.csv:1: not valid csv"):  # names of no columns
        load_examples(Classification(train=str(table), **task))
    table.write_text(f'text,label\n{body}"never closed,a\n{body}')
    # Skipping a record that swallows the rest of the file would drop thirty good rows unseen.
    with pytest.raises(UserError, match="not valid csv"):
        load_examples(Classification(train=str(table), **task))


def test_one_turn_of_a_wrong_type_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows: list[dict[str, Any]] = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(30)]
    rows[3]["output"] = ["no", "text"]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r":4: column 'output': expected text, found list"):
        load_examples(Instruction(train=str(path)))
    assert load_examples(Instruction(train=str(path), on_bad_row="skip", max_bad_rows=0.1)).bad == 1


ENCODINGS = {
    "utf-8": "naïve “words”",
    "latin-1": "na\xefve words",
    "cp1252": "naïve “words”",
    "utf-16": "naïve “words”",
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_encoding_that_would_work_is_named(tmp_path: Path, name: str) -> None:
    data = "".join(f"{ENCODINGS[name]} {i},{'ab'[i % 2]}\n" for i in range(30)).encode(name)
    assert data.decode(readable_as(data)) == data.decode(name)
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    wrong = "ascii" if name == "utf-8" else "utf-8"
    fields: dict[str, Any] = {"header": False, "names": ["text", "label"]}
    with pytest.raises(UserError, match=rf"rows.csv:1: byte .*data.encoding={name} reads"):
        load_examples(Classification(train=str(path), encoding=wrong, **fields))
    task = Classification(train=str(path), encoding=name, **fields)
    assert load_examples(task).train[0]["text"].startswith(ENCODINGS[name])


def test_a_row_whose_bytes_do_not_fit_is_a_bad_row(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", b'{"text": "caf\xe9", "label": "a"}')
    task = Classification(train=str(path), on_bad_row="skip", max_bad_rows=1)
    examples = load_examples(task)
    assert examples.bad == 1
    assert any("rows.jsonl:21: byte 0xe9 is not utf-8" in note for note in examples.notes)


def test_trec_says_latin_1() -> None:
    path = tiny.SHARED / "trec" / "TREC.train"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with pytest.raises(UserError, match=r"TREC.train:\d+: byte .*data.encoding=latin-1 reads"):
        load_examples(Classification(train=str(path), pattern=TREC))


def test_the_count_is_in_the_result(tmp_path: Path) -> None:
    model = tiny.bert(tmp_path / "bert", labels=3)
    overrides = runs.classified(tmp_path / "data")
    with (tmp_path / "data" / "train.jsonl").open("a") as file:
        file.write('{"text": \n')
    skipping = ["data.on_bad_row=skip", "data.max_bad_rows=1"]
    result = runs.finished(
        tmp_path / "run",
        "model=local",
        f"model.path={model}",
        "strategy=zero_shot",
        f"cache.dir={tmp_path / 'cache'}",
        *overrides,
        *skipping,
    )
    assert result["examples"]["bad"] == 1
    assert any("cannot be used and are left out" in note for note in result["notes"])
