"""Streams from their sources to `result.json`: bounded memory, what is refused, exact updates."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.configure.preflight import build
from llmexp.data.batches import POOL
from llmexp.data.prefix import token_data
from llmexp.data.sources import load_examples
from llmexp.data.stream_module import StreamData
from llmexp.data.stream_rows import RowStream, shuffled
from llmexp.doctor.examine import examine
from llmexp.errors import UserError
from llmexp.strategies.full_finetune import FullFinetune
from llmexp.tasks.base import Row, Task
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from tests import fitted, nets, runs, tiny
from tests.exact import apart, measured
from tests.test_distributed import run
from tests.test_streaming import ROWS, context, pairs, read_back, said, texts

HELD = ["data.limit.validation=4", "data.limit.test=3"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("net"))


def streamed(net: Path, data: str, train: Path | str, *more: str) -> list[str]:
    """Overrides of a small streamed run."""
    model = ["model=local", f"model.path={net}", "strategy=full_finetune"]
    source = [f"data={data}", f"data.train={train}", "data.streaming=true", *HELD]
    small = ["data.batch_size=3", "data.shuffle_buffer=40", "data.generation.examples=2"]
    return [
        *model,
        *source,
        *small,
        "data.generation.max_new_tokens=4",
        "data.max_length=96",
        *more,
    ]


# Sources.


def write_jsonl(path: Path, rows: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))


def write_csv(path: Path, rows: list[str]) -> None:
    path.write_text("text\n" + "".join('"' + t.replace('"', '""') + '"\n' for t in rows))


def write_txt(path: Path, rows: list[str]) -> None:
    path.write_bytes("\r\n\r\n".join(rows).encode())


def write_parquet(path: Path, rows: list[str]) -> None:
    table = pyarrow.table({"text": rows})
    pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)


WRITERS: dict[str, Callable[[Path, list[str]], None]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "txt": write_txt,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_stream_reads_the_rows_that_are_read_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    rows = ["one, with a comma", 'two "quoted"', "three\nlines\nlong", "ünïcödé", "   ", "last"]
    WRITERS[kind](path, rows * 3)
    separator = r"\n\n" if kind == "txt" else None
    fields: dict[str, Any] = {"train": str(path), "separator": separator}
    held = load_examples(LanguageModeling(**fields, test=str(path), validation=str(path)))
    task = LanguageModeling(**fields, streaming=True)
    assert list(RowStream(task, str(path)).rows(Counter())) == held.train
    assert len(held.train) == 15


@pytest.mark.parametrize("kind", WRITERS)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    text = " ".join(tiny.TEXTS) * 4
    WRITERS[kind](path, [f"{i} {text}" for i in range(12_000)])
    assert path.stat().st_size > 10_000_000
    task = LanguageModeling(
        train=str(path), streaming=True, separator=r"\n\n" if kind == "txt" else None
    )
    arrow = 0
    tracemalloc.start()
    before = pyarrow.total_allocated_bytes()
    for number, _ in enumerate(shuffled(RowStream(task, str(path)).rows(Counter()), 100, "")):
        if number % 100 == 0:
            arrow = max(arrow, pyarrow.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 11_999
    assert peak < 3_000_000 and arrow < 5_000_000


class Counted(RowStream):
    """A stream that says how many of its rows were taken."""

    taken: Any = None

    def rows(self, counts: Counter[str]) -> Iterator[Row]:
        for row in super().rows(counts):
            counts["taken"] += 1
            yield row


@pytest.mark.parametrize("shape", [{}, {"packing": True}, {"tokens_per_batch": 250}])
def test_few_rows_are_held_between_the_source_and_a_step(
    tmp_path: Path, net: Path, shape: dict[str, Any]
) -> None:
    count = 6000
    made = context(tmp_path, net, "instruction", shuffle_buffer=50, **shape)
    pairs(tmp_path / "pairs.jsonl", count)
    stream: Any = made.examples.stream
    made.examples.stream = Counted(stream.task, stream.locator)
    data = StreamData(made, 0)
    trained = most = 0
    taken = 0
    for batch in data.train_dataloader():
        taken += batch["stream_counts"].get("taken", 0)
        trained += len(read_back([batch], made)) / 2
        most = max(most, taken - trained)
    assert taken == count == trained
    # The buffer, what is cut into batches together, and for packs what is tokenised together.
    units = POOL * 3 if not shape else 1000 + POOL * 20
    assert most <= 50 + units + 3


def folder_set(home: Path) -> None:
    """A data set folder `owner/name` of two parquet files, with classes."""
    folder = home / "owner" / "name"
    folder.mkdir(parents=True)
    for part in (0, 1):
        rows = [said(i) for i in range(part * 150, part * 150 + 150)]
        write_parquet(folder / f"train-{part:05}-of-00002.parquet", rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hub_set_streams_every_row_once_whatever_the_workers(
    tmp_path: Path, net: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    folder_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    changes = {"train": "hub:owner/name:train", "packing": True, "num_workers": workers}
    task = replace(context(tmp_path, net, "text").task, **changes)
    made = nets.context(net, FullFinetune(), (task, load_examples(task)))
    found = list(StreamData(made, 0).train_dataloader())
    assert sorted(read_back(found, made)) == list(range(7, ROWS))


# What is refused, and what is left out.


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("data.limit.validation=null", r"data.validation: .* data.limit.validation=500"),
        ("data.limit.test=null", r"data.test: .* data.limit.test=500 for the first 500 rows"),
        ("trainer.max_steps=-1", r"trainer.max_steps: .* for example trainer.max_steps=1000"),
        ("trainer.val_check_interval=0.5", r"trainer.val_check_interval: 0.5 is a fraction"),
        ("+trainer.limit_train_batches=0.1", r"trainer.limit_train_batches: 0.1 is a fraction"),
        ("data.duplicates=drop", r"data.duplicates: .* use data.duplicates=keep"),
        ('data.train="hub:a/b:train[:5%]"', r"data.train: .* use data.limit.train"),
    ],
)
def test_what_a_stream_cannot_do_is_said_before_it_starts(
    tmp_path: Path, net: Path, change: str, sentence: str
) -> None:
    words = [*streamed(net, "text", texts(tmp_path / "a.jsonl", 9)), "trainer.max_steps=3"]
    build(compose_jobs(words, "run", None, False)[0].tree)
    (job,) = compose_jobs([*words, change], "run", None, False)
    with pytest.raises(UserError, match=sentence) as refused:
        build(job.tree)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "sentence"), [("a.json", "jsonl"), ("a.txt", "separator")])
def test_a_file_that_must_be_read_whole_is_refused(
    tmp_path: Path, net: Path, name: str, sentence: str
) -> None:
    (tmp_path / name).write_text('[{"text": "x"}]')
    words = [*streamed(net, "text", tmp_path / name), "trainer.max_steps=3"]
    with pytest.raises(UserError, match=sentence):
        build(compose_jobs(words, "run", None, False)[0].tree)


def test_a_task_that_needs_all_rows_is_refused(tmp_path: Path) -> None:
    words = [*runs.classified(tmp_path), "data.streaming=true", "trainer.max_steps=3"]
    with pytest.raises(UserError, match=r"data.streaming: a classification task looks at all"):
        build(compose_jobs(open_keys(words), "run", None, False)[0].tree)
    spec: Any = fitted.features()
    task = Classification(train="a.csv", streaming=True)
    (said,) = spec.check(nets.HFModel(path="x"), task, None)
    assert said.startswith("data.streaming: feature_based computes the features of all")


def test_a_stream_without_steps_is_fine_where_nothing_is_trained(tmp_path: Path, net: Path) -> None:
    words = streamed(net, "instruction", pairs(tmp_path / "a.jsonl", 40), "strategy=zero_shot")
    result = runs.finished(tmp_path / "run", *words)
    assert result["examples"] == {"train": None, "val": 4, "test": 3, "bad": 0}
    assert "train" not in result["encoding"]


def test_frozen_blocks_run_in_every_step_and_the_run_says_so(tmp_path: Path, net: Path) -> None:
    made = context(tmp_path, net, "instruction")
    made = replace(made, strategy=nets.lora(layers=1), cache=replace(made.cache, enabled=True))
    data = token_data(made, nets.adapted(made))
    assert isinstance(data, StreamData)
    assert any(
        "2 frozen blocks run in every step: train is streamed" in n for n in made.examples.notes
    )


def broken(path: Path) -> Path:
    """50 pairs, with three bad lines far from the beginning, empty and overlapping rows."""
    pairs(path, 50)
    lines = path.read_text().splitlines()
    lines[5:5] = [json.dumps({"prompt": "nothing is answered", "completion": " "})] * 2
    lines[40:40] = ["{", "[]", '{"prompt": 3, "completion": "x"}']
    lines += lines[:2]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_is_left_out_is_counted_in_the_result(tmp_path: Path, net: Path) -> None:
    file = broken(tmp_path / "pairs.jsonl")
    words = streamed(net, "instruction", file, "data.template=plain", "trainer.max_steps=1000")
    with pytest.raises(UserError, match=rf"{file}:41: not valid JSON"):
        runs.finished(tmp_path / "raised", *words)
    skip = ["data.on_bad_row=skip", "data.max_bad_rows=3", "data.overlap=drop"]
    short = ["data.max_length=64", "data.overflow=drop", "data.batch_size=8"]
    result = runs.finished(tmp_path / "run", *words, *skip, *short)
    train = result["encoding"]["train"]
    assert (train["bad_rows"], train["empty_rows"], train["overlapping_rows"]) == (3, 2, 2)
    assert train["rows"] + train["dropped"] == 50 - 7 and train["dropped"] > 0
    assert train["longest"] <= 64
    assert train["tokens"] == result["cost"]["tokens_trained"]
    assert result["examples"]["bad"] == 3
    assert any(re.search(r"ended after \d+ of trainer.max_steps=1000", n) for n in result["notes"])
    with pytest.raises(UserError, match=r"data.max_bad_rows: 3 rows of"):
        runs.finished(tmp_path / "few", *words, *skip[:1], "data.max_bad_rows=2")


def test_a_share_of_bad_rows_is_judged_before_the_end(tmp_path: Path) -> None:
    lines = [json.dumps({"text": said(i)}) if i % 3 else "{" for i in range(5000)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    task = LanguageModeling(train=str(path), streaming=True, on_bad_row="skip", max_bad_rows=0.1)
    rows = RowStream(task, str(path)).rows(Counter())
    read = 0
    with pytest.raises(UserError, match=r"data.max_bad_rows: \d+ of \d+ rows"):
        for _ in rows:
            read += 1
    assert read < 1000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_bytes_that_do_not_fit_are_one_sentence(tmp_path: Path, kind: str, encoding: str) -> None:
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, ["x" * 20, "abc"] * 5)
    path.write_bytes(path.read_bytes().replace(b"abc", b"ab\xe9", 1))
    task = LanguageModeling(train=str(path), streaming=True, encoding=encoding, separator=r"\n\n")
    with pytest.raises(UserError, match=r"data\.encoding") as refused:
        list(RowStream(task, str(path)).rows(Counter()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shape", [{}, {"packing": True}])
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_teach_nothing_stop_the_run(
    tmp_path: Path, net: Path, shape: dict[str, Any], workers: int
) -> None:
    pairs(tmp_path / "pairs.jsonl", 3000)
    changes = {"overflow": "drop", "num_workers": workers, **shape}
    made = replace(context(tmp_path, net, "instruction", **changes), max_length=2)
    pairs(tmp_path / "pairs.jsonl", 3000)
    with pytest.raises(UserError, match=r"data.train: none of \d+ rows of the stream") as refused:
        list(StreamData(made, 0).train_dataloader())
    assert "\n" not in str(refused.value)


# Training.


@pytest.mark.long
@pytest.mark.parametrize("shape", [{}, {"packing": True}], ids=["rows", "packs"])
def test_an_update_is_that_of_its_rows_however_it_is_cut(
    tmp_path: Path, net: Path, shape: dict[str, Any]
) -> None:
    """To the end of the epoch, whose last window is a short one."""
    made = context(tmp_path, net, "instruction", batch_size=8, **shape)
    limit = replace(made.task.limit, train=59)
    generation = replace(made.task.generation, examples=0)
    task = replace(made.task, limit=limit, generation=generation)
    optim = replace(made.optim, learning_rate=0.0)
    made = replace(made, task=task, examples=load_examples(task), optim=optim, max_length=64)
    parts = replace(made, task=replace(task, batch_size=1), accumulate=8)
    whole, cut = measured(made, max_steps=99), measured(parts, max_steps=99)
    train = made.examples.encoding["train"]
    assert train["rows"] % 8 and len(whole.losses) == -(-train["rows"] // 8) > 2
    loss, grads = apart(cut, whole)
    assert loss < 1e-6 and grads < 1e-5
    wrong = measured(parts, wrong=True, max_steps=99)
    assert apart(wrong, whole)[1] > 1e-3


def test_two_processes_train_as_one(tmp_path: Path, net: Path) -> None:
    file = pairs(tmp_path / "pairs.jsonl")
    words = [*streamed(net, "instruction", file), "data.template=plain", "tracking=none"]
    words += ["optim.learning_rate=1e-3", "trainer.max_epochs=1", "trainer.max_steps=200"]
    words += ["hardware.accelerator=cpu"]
    one = run(tmp_path / "one", *words, "data.batch_size=8")
    two = ["hardware=ddp", "hardware.devices=2", "data.batch_size=4", "data.num_workers=1"]
    spread = run(tmp_path / "two", *words, *two)
    assert spread["encoding"] == one["encoding"]
    assert spread["encoding"]["train"]["rows"] == ROWS - 7
    assert spread["cost"]["tokens_trained"] == one["cost"]["tokens_trained"]
    for key in ("val/loss", "test/loss"):
        assert spread["metrics"][key] == pytest.approx(one["metrics"][key], abs=1e-4)


def test_the_doctor_looks_at_the_first_rows(tmp_path: Path, net: Path) -> None:
    words = [*streamed(net, "instruction", pairs(tmp_path / "a.jsonl")), "trainer.max_steps=5"]
    words += ["strategy=lora", "data.validation_fraction=0.3"]
    (job,) = compose_jobs(words, "run", None, False)
    report = examine(job)
    assert report.sections["rows"]["train"]["rows"] == ROWS - 7
    assert report.sections["tokens"]["learned_tokens"] > 0
    assert report.sections["training"]["gradients"]["with_gradient"] > 0
    (dead,) = report.sections["dead_knobs"]
    assert dead["key"] == "data.validation_fraction"
    assert report.verdict in ("ok", "warning")


def test_a_setting_of_streams_is_dead_without_one(tmp_path: Path) -> None:
    task: Task = Instruction(train="a.jsonl", shuffle_buffer=5)
    assert "shuffle_buffer" in task.unread()
