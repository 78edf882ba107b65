"""Splits, limits and labels: decided by content and `split_seed`, checked before any model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmexp.data.sources import load_examples, quick_check
from llmexp.data.splits import content_key, shares
from llmexp.errors import UserError
from llmexp.tasks.base import Limit
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling

COUNTS = {"a": 100, "b": 50, "c": 10}


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def classes(tmp_path: Path) -> str:
    rows = [{"text": f"{c} number {i}", "label": c} for c, n in COUNTS.items() for i in range(n)]
    return written(tmp_path / "classes.jsonl", rows)


def test_carved_splits_are_disjoint_stratified_and_whole(classes: str) -> None:
    examples = load_examples(Classification(train=classes, test_fraction=0.2))
    parts = [examples.train, examples.validation, examples.test]
    assert [len(part) for part in parts] == [112, 16, 32]
    assert Counter(row["label"] for row in examples.test) == {"a": 20, "b": 10, "c": 2}
    keys = [{content_key(row) for row in part} for part in parts]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    everything = [json.loads(line) for line in Path(classes).read_text().splitlines()]
    for part in parts:
        assert part == [row for row in everything if row in part]
    assert sum("carved from train" in note for note in examples.notes) == 2


def test_repeated_texts_never_straddle_a_cut(tmp_path: Path) -> None:
    rows = [{"text": f"Text {i % 40}!", "label": str(i % 2)} for i in range(200)]
    examples = load_examples(Classification(train=written(tmp_path / "r.jsonl", rows)))
    assert examples.test and examples.validation
    assert not any("also stand in train" in note for note in examples.notes)


def test_only_split_seed_moves_splits_and_limits(classes: str) -> None:
    import random

    limit = Limit(train=40, validation=5, test=5)
    random.seed(1)
    first = load_examples(Classification(train=classes, limit=limit))
    random.seed(2)
    assert load_examples(Classification(train=classes, limit=limit)) == first
    other = load_examples(Classification(train=classes, limit=limit, split_seed=1))
    assert other.fingerprint["test"] != first.fingerprint["test"]


@pytest.mark.parametrize("count", [2, 3, 40, 144, 1000])
def test_a_limit_takes_that_many_and_every_class_it_can(classes: str, count: int) -> None:
    task = Classification(
        train=classes, test=classes, limit=Limit(train=count), validation_fraction=0.1
    )
    examples = load_examples(task)
    assert len(examples.train) == min(count, 144)
    assert examples.labels == ["a", "b", "c"]
    if count >= 3:
        assert {row["label"] for row in examples.train} == set("abc")
    else:
        assert any("data.limit.train, train has no row of c" in n for n in examples.notes)


def test_shares_add_up() -> None:
    assert shares({"a": 1, "b": 1, "c": 1}, 2) == {"a": 1, "b": 1, "c": 0}
    assert sum(shares({"a": 7, "b": 11, "c": 13}, 10).values()) == 10


REFUSED = [
    ([{"text": "x", "label": "a"}] * 30, {}, r"every row has the label 'a'; two are needed"),
    ([{"txt": "x", "label": "a"}], {}, r":1: there is no column 'text'.*did you mean txt\?"),
    ([{"text": 3, "label": "a"}], {}, r":1: column 'text': expected text, found int '3'"),
    (
        [{"text": "x", "label": 1}, {"text": "y", "label": "1"}],
        {},
        r":2: column 'label': expected int as in the rows before, found str '1'",
    ),
    ([{"text": "x", "label": None}], {}, r":1: column 'label': the label is missing"),
    ([{"text": "x", "label": 0.5}], {}, r":1: column 'label': .*whole number, found float"),
    ([{"text": " ", "label": "a"}], {}, r"every text in .* is empty"),
    (
        [{"text": f"{i}", "label": str(i % 2)} for i in range(20)],
        {"labels": {"2": "two"}},
        r"data.labels: no class '2' in train",
    ),
    (
        [{"text": f"{i}", "label": str(i % 2)} for i in range(20)],
        {"test_fraction": 0.0},
        r"data.test: the split is empty; give data.test a source or use data.test_fraction=0.3",
    ),
]


@pytest.mark.parametrize(("rows", "fields", "sentence"), REFUSED)
def test_bad_rows_are_one_sentence(
    tmp_path: Path, rows: list[dict[str, Any]], fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load_examples(Classification(train=written(tmp_path / "r.jsonl", rows), **fields))
    assert "\n" not in str(caught.value)


def test_a_label_that_train_lacks_is_named(classes: str, tmp_path: Path) -> None:
    test = written(tmp_path / "t.jsonl", [{"text": "x", "label": "d"}])
    with pytest.raises(UserError, match=r"data.test: the label 'd' never stands in train"):
        load_examples(Classification(train=classes, test=test))


CONVERSATIONS = {
    "alpaca": {"instruction": "Add.", "input": "1 2", "output": "3"},
    "prompt_completion": {"prompt": "Add.\n\n1 2", "completion": "3"},
    "messages": {
        "messages": [
            {"role": "user", "content": "Add.\n\n1 2"},
            {"role": "assistant", "content": "3"},
        ]
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Add.\n\n1 2"},
            {"from": "gpt", "value": "3"},
        ]
    },
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_instruction_format_is_detected_and_means_the_same(name: str) -> None:
    raw, task = CONVERSATIONS[name], Instruction(train="x", system="Be brief.")
    assert task.canonical(raw, "f:1")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add.\n\n1 2"},
        {"role": "assistant", "content": "3"},
    ]
    forced = Instruction(train="x", format=name)
    assert forced.canonical(raw, "f:1")["messages"][-1]["content"] == "3"


def test_a_prompt_is_made_of_columns() -> None:
    task = Instruction(train="x", prompt="{d}\n\nSummarize {{it}}.", columns={"completion": "s"})
    row = task.canonical({"d": "A: {hi}", "s": "A says hi"}, "f:1")
    assert row["messages"][0]["content"] == "A: {hi}\n\nSummarize {it}."
    with pytest.raises(UserError, match=r"f:1: data.prompt names a column 'd'"):
        task.canonical({"e": "x", "s": "y"}, "f:1")


def test_an_unknown_format_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"cannot tell the format from the columns q, a;.*sharegpt"):
        Instruction(train="x").canonical({"q": "?", "a": "!"}, "f:1")


def test_a_separator_parts_and_joins_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"story {i}\r\n<end>\r\n" for i in range(30)), newline="")
    examples = load_examples(LanguageModeling(train=str(path), separator="<end>\\n"))
    assert len(examples.train) + len(examples.validation) + len(examples.test) == 30
    lines = written(tmp_path / "l.jsonl", [{"text": f"line {i}\n"} for i in range(100)])
    whole = load_examples(LanguageModeling(train=lines, test=lines, validation=lines, separator=""))
    assert whole.train == [{"text": "".join(f"line {i}\n" for i in range(100))}]


QUICK = [
    ({"train": "hub:imdb:train"}, "data.train: hub:imdb:train: not of the form hub:OWNER"),
    ({"train": "pydocs:topic:train"}, "data.train: pydocs:topic:train: not of the form"),
    ({"train": "http://x/y.csv"}, "data.train: http://x/y.csv: a source is a file or starts"),
    ({"pattern": "(?P<text>.*"}, "data.pattern: '(?P<text>.*' is no regular expression"),
    ({"pattern": ".*"}, "data.pattern: '.*' has no named groups"),
    ({"pattern": "(?P<text>.*)"}, "data.pattern: has no group (?P<label>...)"),
    ({"columns": {"txt": "a"}}, "data.columns.txt: a classification task has no such column"),
    ({"encoding": "utf-9"}, "data.encoding: Python knows no encoding"),
    ({"delimiter": "::"}, "data.delimiter: must be one character"),
    ({"header": False}, "data.names: with data.header=false"),
    ({"test_fraction": 0.5, "validation_fraction": 0.5}, "data: validation_fraction and"),
]


@pytest.mark.parametrize(("fields", "sentence"), QUICK)
def test_quick_check_says_it_first(fields: dict[str, Any], sentence: str) -> None:
    task = Classification(**{"train": "pydocs:topics:train", **fields})
    complaints = quick_check(task)
    assert len(complaints) == 1 and complaints[0].startswith(sentence)
    assert quick_check(Classification(train="pydocs:topics:train")) == []


def test_python_sources_need_the_allow_list(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "mysource.py").write_text(
        "def rows():\n    return [{'text': str(i), 'label': str(i % 2)} for i in range(50)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    task = Classification(train="python:mysource.rows")
    with pytest.raises(UserError, match="LLMEXP_ALLOW=mysource"):
        load_examples(task)
    monkeypatch.setenv("LLMEXP_ALLOW", "mysource")
    assert load_examples(task).labels == ["0", "1"]
