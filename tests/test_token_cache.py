"""Tokens are found again only where everything they depend on is the same, whoever asks."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tokenizers import normalizers

from llmexp.cache.store import kept
from llmexp.config import Cache, spec
from llmexp.context import Context
from llmexp.data import token_cache, token_key
from llmexp.data.module import TokenData
from llmexp.data.sources import load_examples
from llmexp.data.token_file import TokenFile
from llmexp.data.token_key import UNREAD, encoding_fields
from llmexp.tasks.base import Encoded, Examples, Task
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from tests import nets, runs, tiny
from tests.forking import clean

Posed = tuple[Task, Examples]


def documents() -> Posed:
    rows = [{"text": text} for text in tiny.TEXTS]
    task = LanguageModeling(train="made.txt", batch_size=2)
    return task, Examples(train=rows, validation=rows, test=rows)


POSED: dict[str, Callable[[], Posed]] = {
    "classification": nets.classification,
    "instruction": nets.instruction,
    "language_modeling": documents,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("net") / "net")


def context(checkpoint: Path, folder: Path, posed: Posed | None = None, **cache: Any) -> Context:
    made = nets.context(checkpoint, nets.lora(), posed or nets.instruction())
    settings = {"enabled": True, "dir": str(folder), "max_gb": 1.0, **cache}
    return replace(made, cache=Cache(**settings))


def encoded(made: Context) -> Encoded:
    return token_cache.encoded(made, made.examples.train, "train")


@pytest.mark.parametrize("kind", POSED)
def test_kept_rows_and_counts_are_those_of_the_encoder(
    checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    made = replace(context(checkpoint, tmp_path, POSED[kind]()), max_length=24)
    plain = encoded(context_without(made))
    for again in (encoded(made), encoded(made)):
        assert isinstance(again.rows, TokenFile)
        assert list(again.rows) == list(plain.rows)
        assert again.rows[-1] == plain.rows[-1] and again.rows[:2] == plain.rows[:2]
        assert again.counts == plain.counts and again.facts() == plain.facts()
    assert len(kept(tmp_path)) == 1


def context_without(made: Context) -> Context:
    return replace(made, cache=replace(made.cache, enabled=False))


def test_switched_off_it_neither_writes_nor_reads(checkpoint: Path, tmp_path: Path) -> None:
    off = encoded(context(checkpoint, tmp_path / "cache", enabled=False))
    assert isinstance(off.rows, list)
    assert not (tmp_path / "cache").exists()


def key(made: Context) -> str:
    made.task.prepare(made.tokenizer)
    rows, labels = made.examples.train, made.examples.labels
    task, longest = made.task, made.max_length
    found = token_key.key(rows, "train", task, made.tokenizer, longest, labels)
    assert found is not None
    return found


def a_row(made: Context) -> Context:
    made.examples.train[2]["messages"][-1]["content"] += "!"
    return made


def an_order(made: Context) -> Context:
    made.examples.train.reverse()
    return made


def a_template_text(made: Context) -> Context:
    file = Path(made.cache.dir) / "own.jinja"
    text = (token_key.PACKAGE / "templates" / "plain.jinja").read_text()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace("{{", "{{ '' }}{{", 1) + "\n")
    return replace(made, task=replace(made.task, template=str(file)))


def a_normalizer(made: Context) -> Context:
    made.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


def a_token(made: Context) -> Context:
    made.tokenizer.add_tokens(["fox jumps"])
    return made


def a_special_token(made: Context) -> Context:
    made.tokenizer.pad_token = "the"
    return made


def a_side(made: Context) -> Context:
    made.tokenizer.truncation_side = "left"
    return made


CHANGES: dict[str, Callable[[Context], Context]] = {
    "data content": a_row,
    "order of rows": an_order,
    "template": a_template_text,
    "tokenizer": a_normalizer,
    "vocabulary": a_token,
    "special tokens": a_special_token,
    "truncation side": a_side,
    "max_length": lambda made: replace(made, max_length=95),
    "train_on": lambda made: replace(made, task=replace(made.task, train_on="everything")),
    "overflow": lambda made: replace(made, task=replace(made.task, overflow="drop")),
    "packing": lambda made: replace(made, task=replace(made.task, packing=True)),
    "class order": lambda made: replace(made, examples=replace(made.examples, labels=["x"])),
}


@pytest.mark.parametrize("ingredient", CHANGES)
def test_every_ingredient_changes_the_key(
    checkpoint: Path, tmp_path: Path, ingredient: str
) -> None:
    def fresh() -> Context:
        return context(checkpoint, tmp_path)

    assert key(fresh()) == key(fresh())
    assert key(CHANGES[ingredient](fresh())) != key(fresh())


def test_other_columns_change_the_key(checkpoint: Path, tmp_path: Path) -> None:
    """The same file read by other columns, and by the same ones again."""
    file = tmp_path / "rows.csv"
    lines = [f"text {i},other {i},{'ab'[i % 2]}" for i in range(20)]
    file.write_text("\n".join(["first,second,label", *lines]))

    def read_by(column: str) -> str:
        task = Classification(train=str(file), columns={"text": column})
        return key(context(checkpoint, tmp_path, (task, load_examples(task))))

    assert read_by("first") == read_by("first") != read_by("second")


@pytest.mark.parametrize("folder", ["tasks", "data"])
def test_the_encoders_code_changes_the_key(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    made = context(checkpoint, tmp_path)
    before = key(made)
    copy = tmp_path / "llmexp"
    shutil.copytree(token_key.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(token_key, "PACKAGE", copy)
    assert key(made) == before
    with next((copy / folder).glob("[a-z]*.py")).open("a") as file:
        file.write("# another line\n")
    assert key(made) != before


def test_a_library_of_another_version_changes_the_key(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = context(checkpoint, tmp_path)
    before = key(made)
    for changed in token_key.LIBRARIES:
        with monkeypatch.context() as patched:
            patched.setattr(
                token_key, "version", lambda name, changed=changed: str(name == changed)
            )
            assert key(made) != before


@pytest.mark.parametrize(
    ("template", "differs"), [("{{ strftime_now('%d %b') }}", True), ("", False)]
)
def test_the_day_is_in_the_key_where_the_template_writes_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, differs: bool
) -> None:
    """As the templates of Llama 3.1 and later do."""
    file = tmp_path / "dated.jinja"
    plain = token_key.PACKAGE / "templates" / "plain.jinja"
    file.write_text(template + plain.read_text())
    made = context(checkpoint, tmp_path)
    made = replace(made, task=replace(made.task, template=str(file)))
    today = key(made)
    assert key(made) == today
    later = date.today() + timedelta(days=1)
    monkeypatch.setattr(token_key, "date", type("Later", (), {"today": lambda: later}))
    assert (key(made) != today) == differs
    said = made.task.remarks(made.tokenizer)
    assert [("runs of two days differ" in remark) for remark in said] == [True] * differs


def test_a_date_in_the_template_is_said_in_the_result(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "dated.jinja"
    plain = token_key.PACKAGE / "templates" / "plain.jinja"
    file.write_text("{{ strftime_now('%d %b') }}" + plain.read_text())
    lines = [*runs.answered(tmp_path / "data"), "model=local", f"model.path={checkpoint}"]
    lines += ["model.kind=decoder", "strategy=head_only", f"data.template={file}"]
    result = runs.finished(tmp_path / "run", *lines)
    assert sum("runs of two days differ" in note for note in result["notes"]) == 1


def test_what_plays_no_part_leaves_the_key_alone(checkpoint: Path, tmp_path: Path) -> None:
    made = context(checkpoint, tmp_path)
    before = key(made)
    made.task.encode(made.examples.train, made.tokenizer, 9, [])
    made.tokenizer("cut", truncation=True, max_length=2, padding="max_length")
    assert key(made) == before
    assert key(replace(made, task=replace(made.task, batch_size=77, num_workers=1))) == before
    assert key(replace(made, task=replace(made.task, train="elsewhere.jsonl"))) == before
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    assert key(context(moved, tmp_path)) == before


def test_a_tokenizers_own_code_is_in_the_key(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `model.trust_remote_code` loads it; a class that no file holds keeps no tokens."""
    made, text = context(checkpoint, tmp_path), "from transformers import PreTrainedTokenizerFast\n"
    text += "class Own(PreTrainedTokenizerFast):\n    pass\n"
    file = tmp_path / "remote" / "own_tokenizer.py"
    file.parent.mkdir()
    file.write_text(text)
    monkeypatch.syspath_prepend(str(file.parent))
    made.tokenizer.__class__ = importlib.import_module("own_tokenizer").Own
    before = key(made)
    assert key(made) == before
    file.write_text(f"{text}# changed\n")
    assert key(made) != before
    made.tokenizer.__class__ = type("Own", (type(made.tokenizer),), {"__module__": "__typed__"})
    assert token_key.tokenizer_facts(made.tokenizer) is None


@pytest.mark.parametrize("cls", [Classification, Instruction, LanguageModeling])
def test_a_field_is_in_the_key_unless_it_is_known_to_play_no_part(cls: type) -> None:
    fields = set(cls.__pydantic_fields__)  # type: ignore[attr-defined]
    assert set(encoding_fields(cls(train="x"))) == fields - UNREAD


@spec
class Odd(Classification):
    """A task of one's own, with a field nobody here knows and one whose name is known."""

    kind: ClassVar[str] = "odd"
    lowered: bool = False
    prompt: str = ""


def test_a_new_field_of_a_task_of_ones_own_is_in_the_key() -> None:
    mine = ({"lowered": True}, {"prompt": "a"}, {"labels": {"a": "b"}})
    known = ({"columns": {"text": "a"}}, {"separator": "a"}, {"names": ["a"]}, {"max_length": 7})
    for change in (*mine, *known):
        assert encoding_fields(Odd(train="x", **change)) != encoding_fields(Odd(train="x"))
    assert encoding_fields(Odd(train="x", batch_size=3)) == encoding_fields(Odd(train="x"))


def test_the_code_of_a_task_of_ones_own_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_task_of_a_test.py"
    file.write_text("from llmexp.tasks.classification import Classification\n")
    file.write_text(file.read_text() + "class Own(Classification):\n    pass\n")
    import own_task_of_a_test as own  # type: ignore[import-not-found]

    before = token_key.code_of(own.Own)
    file.write_text(file.read_text() + "    more = 1\n")
    assert before is not None and token_key.code_of(own.Own) != before
    del sys.modules["own_task_of_a_test"]


def test_so_is_the_code_of_the_package_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task in one folder of a package may encode with what stands in another."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for folder in ("own_package_of_a_test/posing", "own_package_of_a_test/words", "beside"):
        (tmp_path / folder).mkdir(parents=True)
    package = tmp_path / "own_package_of_a_test"
    (package / "posing" / "task.py").write_text(
        "from llmexp.tasks.classification import Classification\n\n\n"
        "class Own(Classification):\n    pass\n"
    )
    import own_package_of_a_test.posing.task as own  # type: ignore[import-not-found]

    def found() -> str | None:
        token_key._sources.cache_clear()
        return token_key.code_of(own.Own)

    before = found()
    (tmp_path / "beside" / "other.py").write_text("more = 1\n")
    assert before is not None and found() == before
    (package / "words" / "split.py").write_text("more = 1\n")
    assert found() != before
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "facts"])
def test_a_spoiled_file_is_made_again_and_said(
    checkpoint: Path, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = context(checkpoint, tmp_path)
    expected = list(encoded(made).rows)
    (entry,) = kept(tmp_path)
    file = entry.folder / token_cache.FILE
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "facts":
        (entry.folder / "meta.json").write_text("{")
    elif harm == "gone":
        file.unlink()
    else:
        file.write_bytes(data if harm == "flipped" else data[:-8])
    with caplog.at_level(logging.WARNING, "llmexp"):
        assert list(encoded(made).rows) == expected
    assert "made again" in caplog.text
    caplog.clear()
    assert list(encoded(made).rows) == expected and not caplog.text


def test_what_is_larger_than_the_cache_is_encoded_and_said(
    checkpoint: Path, tmp_path: Path
) -> None:
    made = context(checkpoint, tmp_path, max_gb=1e-7)
    assert isinstance(encoded(made).rows, list)
    assert any("cache.max_gb" in note for note in made.examples.notes)
    assert kept(tmp_path) == []


def test_all_kinds_share_one_limit(checkpoint: Path, tmp_path: Path) -> None:
    encoded(context(checkpoint, tmp_path))
    (first,) = kept(tmp_path)
    os.utime(first.folder / "meta.json", (1, 1))
    (tmp_path / "features").mkdir()
    first.folder.rename(tmp_path / "features" / first.folder.name)
    size = kept(tmp_path)[0].size
    encoded(context(checkpoint, tmp_path, nets.classification(), max_gb=1.2 * size / 1e9))
    assert [entry.folder.parent.name for entry in kept(tmp_path)] == ["tokens"]


def test_a_worker_opens_the_file_itself(checkpoint: Path, tmp_path: Path) -> None:
    rows = encoded(context(checkpoint, tmp_path)).rows
    sent = pickle.dumps(rows)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == list(rows)


def test_rows_of_other_things_than_ints_are_not_kept(checkpoint: Path, tmp_path: Path) -> None:
    made = context(checkpoint, tmp_path)
    odd = Encoded([{"input_ids": [1], "labels": 0, "index": 0, "weight": 0.5}])
    object.__setattr__(made.task, "encode", lambda *args: odd)
    assert encoded(made) is odd
    assert kept(tmp_path) == []


def _race(checkpoint: Path, folder: Path, barrier: Any, builds: Any, expected: list[Any]) -> None:
    made = context(checkpoint, folder)
    encode = made.task.encode

    def counted(*args: Any) -> Encoded:
        with builds.get_lock():
            builds.value += 1
        time.sleep(0.3)
        return encode(*args)

    object.__setattr__(made.task, "encode", counted)
    barrier.wait()
    assert list(encoded(made).rows) == expected


def test_eight_processes_at_once_encode_once(checkpoint: Path, tmp_path: Path) -> None:
    made = context(checkpoint, tmp_path)
    expected = list(encoded(context_without(made)).rows)
    forked = clean()
    barrier, builds = forked.Barrier(8), forked.Value("i", 0)
    given = (checkpoint, tmp_path, barrier, builds, expected)
    all_of_them = [forked.Process(target=_race, args=given) for _ in range(8)]
    for process in all_of_them:
        process.start()
    for process in all_of_them:
        process.join(300)
    assert [process.exitcode for process in all_of_them] == [0] * 8
    assert builds.value == 1


def test_batches_are_the_same_with_and_without(checkpoint: Path, tmp_path: Path) -> None:
    def batches(made: Context) -> list[Any]:
        data = TokenData(made)
        data.setup("fit")
        return [{k: str(v) for k, v in b.items()} for b in data.train_dataloader()]

    made = context(checkpoint, tmp_path)
    plain = batches(context_without(made))
    assert batches(made) == plain and batches(made) == plain
    assert len(kept(tmp_path)) == 2, "validation and test are equal; train alone is ever packed"


@pytest.mark.parametrize("kind", ["instruction", "language_modeling"])
def test_packs_are_kept_as_packs(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    made = context(checkpoint, tmp_path, POSED[kind]())
    loose = encoded(made)
    made = replace(made, task=replace(made.task, packing=True))
    plain = encoded(context_without(made))
    for again in (encoded(made), encoded(made)):
        assert list(again.rows) == list(plain.rows) and again.facts() == plain.facts()
        assert isinstance(again.rows, TokenFile) and again.rows[0]["position_ids"]
    assert len(plain.rows) <= len(loose.rows) and len(kept(tmp_path)) == 2


@pytest.mark.parametrize("posed", [runs.classified, runs.answered, runs.written])
def test_a_run_is_the_same_bit_for_bit_whether_tokens_were_kept(
    checkpoint: Path, tmp_path: Path, posed: Callable[[Path], list[str]]
) -> None:
    lines = [*posed(tmp_path / "data"), "model=local", f"model.path={checkpoint}"]
    lines += ["model.kind=decoder", f"cache.dir={tmp_path / 'cache'}", "strategy=lora"]
    found = [
        runs.finished(tmp_path / f"run{n}", *lines, f"cache.enabled={str(n > 0).lower()}")
        for n in range(3)
    ]
    assert any(entry.facts["kind"] == "tokens" for entry in kept(tmp_path / "cache"))
    assert len({json.dumps(result["metrics"], sort_keys=True) for result in found}) == 1
