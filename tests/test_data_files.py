"""Files as users have them: real ones load exactly, broken ones end in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmexp.data.readers import read
from llmexp.data.sources import load_examples, quick_check
from llmexp.errors import UserError
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> str:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return str(path)


def rows_of(path: Path, **fields: Any) -> list[dict[str, Any]]:
    return [row for _, row in read(path, Classification(train=str(path), **fields))]


SST2 = r"(?P<label>\d) (?P<text>.*)"
TREC = r"(?P<label>[A-Z]+):\S+ (?P<text>.*)"


def test_sst2_loads_as_it_lies() -> None:
    names = [shared(f"sst2/stsa.binary.{part}") for part in ("train", "dev", "test")]
    task = Classification(train=names[0], validation=names[1], test=names[2], pattern=SST2)
    examples = load_examples(task)
    sizes = [len(examples.train), len(examples.validation), len(examples.test)]
    assert sizes == [6920, 872, 1821]
    assert examples.labels == ["0", "1"]
    assert any(note.startswith("2 of 1821 test texts") for note in examples.notes)
    assert any(note.startswith("9 train rows repeat") for note in examples.notes)
    assert quick_check(task) == []


def test_trec_is_latin_1_and_its_leak_is_said() -> None:
    fields = {"train": shared("trec/TREC.train"), "test": shared("trec/TREC.test")}
    with pytest.raises(UserError, match=r"TREC.train:\d+: byte .*data.encoding=latin-1"):
        load_examples(Classification(**fields, pattern=TREC))
    examples = load_examples(Classification(**fields, pattern=TREC, encoding="latin-1"))
    assert len(examples.train) + len(examples.validation) == 5452
    assert len(examples.test) == 500
    assert examples.labels == ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]


def test_banking77_fields_span_lines() -> None:
    columns = {"label": "category"}
    fields = {"train": shared("banking77/train.csv"), "test": shared("banking77/test.csv")}
    examples = load_examples(Classification(**fields, columns=columns, validation_fraction=0.0))
    assert (len(examples.train), len(examples.test), len(examples.labels)) == (10003, 3080, 77)
    assert any(note.startswith("29 of 3080 test texts") for note in examples.notes)


def test_sms_spam_has_bare_quotes_and_no_split() -> None:
    task = Classification(
        train=shared("sms-spam/sms.tsv"), header=False, names=["label", "text"], quoting="none"
    )
    examples = load_examples(task)
    everything = examples.train + examples.validation + examples.test
    assert len(everything) == 5574
    assert sum(row["label"] == "spam" for row in everything) == 747
    assert not any("also stand in train" in note for note in examples.notes)


def test_instruct_1100_is_detected_as_alpaca() -> None:
    examples = load_examples(Instruction(train=shared("instruct-1100/instruction-data.json")))
    assert len(examples.train) + len(examples.validation) + len(examples.test) == 1100
    assert any("format alpaca detected" in note for note in examples.notes)


def test_wikisql_is_text_and_with_a_pattern_requests() -> None:
    fields = {
        "train": shared("wikisql/train.jsonl"),
        "validation": shared("wikisql/valid.jsonl"),
        "test": shared("wikisql/test.jsonl"),
    }
    examples = load_examples(LanguageModeling(**fields))
    sizes = [len(examples.train), len(examples.validation), len(examples.test)]
    assert sizes == [1000, 100, 100]
    pattern = r"(?s)(?P<prompt>.*\nA:) (?P<completion>.*)"
    answers = load_examples(Instruction(**fields, pattern=pattern)).test
    assert all(row["messages"][-1]["content"].startswith("SELECT") for row in answers)


def test_tinyshakespeare_is_cut_not_dealt() -> None:
    path = shared("tinyshakespeare/input.txt")
    examples = load_examples(LanguageModeling(train=path))
    parts = [examples.train, examples.validation, examples.test]
    assert [len(part) for part in parts] == [1, 1, 1]
    assert "".join(part[0]["text"] for part in parts) == Path(path).read_text()
    assert len(examples.test[0]["text"]) == pytest.approx(111_539, abs=1)
    assert len(examples.validation[0]["text"]) == pytest.approx(111_539, abs=1)


def test_tinystories_line_ends_are_one_kind() -> None:
    folder = Path(shared("tinystories/tiny_stories.txt")).parent
    for path in folder.glob("*.txt"):
        assert all("\r" not in row["text"] for row in rows_of(path))


def test_every_format_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": 'a, "b"\nc', "label": "x"}, {"text": "d\u2028e", "label": "y"}]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "f.json").write_text(json.dumps(rows))
    (tmp_path / "f.csv").write_bytes(
        '\ufefftext,label\r\n"a, ""b""\nc",x\r\nd\u2028e,y\r\n'.encode()
    )
    (tmp_path / "f.tsv").write_text('text\tlabel\n"a, ""b""\nc"\tx\nd\u2028e\ty\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "f.parquet")
    for path in tmp_path.iterdir():
        assert rows_of(path) == rows, path.name


BROKEN = [
    ("a.jsonl", '{"text": "x"}\n{"text": ', {}, r"a.jsonl:2: not valid JSON .*'\{\"text\": '"),
    ("a.jsonl", "3\n", {}, r"a.jsonl:1: expected an object with named fields, found '3'"),
    ("a.json", '{"a": 1}\n{"b": 2}', {}, r"a.json:2: not valid JSON .*call it .jsonl"),
    ("a.json", '{"a": 1}', {}, r"a.json: expected a list of rows"),
    ("a.csv", 'text,label\n"x\ny",1\nonly\n', {}, r"a.csv:4: found 1 fields where 2 columns"),
    ("a.csv", "text,label\nx,1,2\n", {}, r"a.csv:2: found 3 fields where 2 columns"),
    ("a.csv", 'text,label\nx,1\n"never closed,1\n', {}, r"a.csv:3: not valid csv .*quoting=none"),
    ("a.csv", "text,text\n1,2\n", {}, r"a.csv:1: the header names 'text' twice"),
    ("a.txt", "1 good\nbad\n", {"pattern": SST2}, r"a.txt:2: data.pattern does not match .*'bad'"),
    ("a.txt", "x", {"encoding": "utf-9"}, r"data.encoding: Python knows no encoding 'utf-9'"),
    ("a.parquet", "not parquet", {}, r"a.parquet: not a readable parquet file"),
    ("a.xls", "x", {}, r"a.xls: cannot tell the format from the ending .xls.*data.pattern"),
]


@pytest.mark.parametrize(("name", "content", "fields", "sentence"), BROKEN)
def test_a_bad_file_is_one_sentence(
    tmp_path: Path, name: str, content: str, fields: dict[str, Any], sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        rows_of(tmp_path / name, **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}: the file is empty"):
        rows_of(tmp_path / name)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=r"no such file; did you mean .*reviews.csv\?"):
        rows_of(tmp_path / "review.csv")
    complaints = quick_check(Classification(train=str(tmp_path / "review.csv")))
    assert len(complaints) == 1 and complaints[0].startswith("data.train: ")


def test_bytes_of_another_encoding_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\nfine,1\ncaf\xe9,0\n")
    with pytest.raises(UserError, match=r"a.csv:3: byte 0xe9 after .*data.encoding=latin-1"):
        rows_of(tmp_path / "a.csv")
