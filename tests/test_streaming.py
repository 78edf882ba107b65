"""A train split that is never held: every row once an epoch, in an order one can come back to."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmexp.context import Context
from llmexp.data.sources import load_examples
from llmexp.data.stream import COUNTS, StreamLoader, batch_stream
from llmexp.data.stream_module import StreamData
from llmexp.data.stream_rows import shuffled
from llmexp.errors import UserError
from llmexp.strategies.full_finetune import FullFinetune
from llmexp.tasks.base import IGNORE, Batch, Task
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from tests import nets, tiny
from tests.test_resume_loops import assert_equal, carried

ROWS = 300
WORDS = " ".join(tiny.TEXTS).split()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("net"))


def said(number: int) -> str:
    """A text of any length whose last word is the row's own."""
    words = random.Random(number).choices(WORDS, k=1 + number % 9)
    return " ".join([*words, f"<{number}>"])


def pairs(path: Path, count: int = ROWS) -> Path:
    rows = [{"prompt": said(i), "completion": f"is {said(i)}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(path: Path, count: int = ROWS) -> Path:
    path.write_text("".join(json.dumps({"text": said(i)}) + "\n" for i in range(count)))
    return path


SHAPES: dict[str, dict[str, Any]] = {
    "rows": {},
    "packs": {"packing": True},
    "budget": {"tokens_per_batch": 250},
    "packs and budget": {"packing": True, "tokens_per_batch": 250},
}


def posed(folder: Path, kind: str, **changes: Any) -> Task:
    held = {"limit": {"validation": 4, "test": 3}, "streaming": True, "batch_size": 3}
    fields = {**held, "shuffle_buffer": 40, **changes}
    if kind == "instruction":
        return Instruction(train=str(pairs(folder / "pairs.jsonl")), template="plain", **fields)
    return LanguageModeling(train=str(texts(folder / "texts.jsonl")), **fields)


def context(folder: Path, net: Path, kind: str, accumulate: int = 1, **changes: Any) -> Context:
    task = posed(folder, kind, **changes)
    made = nets.context(net, FullFinetune(), (task, load_examples(task)))
    return replace(made, accumulate=accumulate)


def loader_of(made: Context, rank: int = 0, world: int = 1) -> StreamLoader:
    stream = batch_stream(made, StreamData(made, 0).collate("train"), rank, world)
    return StreamLoader(stream, made.task.num_workers, lambda: None)


def batches(made: Context, rank: int = 0, world: int = 1, epoch: int = 0) -> list[Batch]:
    found = loader_of(made, rank, world)
    found.source.set_epoch(epoch)
    return list(found)


def equal(ours: Batch, theirs: Batch) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(a, theirs[k]) if isinstance(a, torch.Tensor) else a == theirs[k]
        for k, a in ours.items()
    )


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(map(equal, ours, theirs))


def read_back(found: list[Batch], made: Context) -> list[int]:
    """The numbers of the rows that batches hold, by the words that only they have."""
    numbers = []
    for batch in found:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            text = made.tokenizer.decode(ids[mask.bool()].tolist())
            numbers += map(int, re.findall(r"<(\d+)>", text))
    return numbers


def learned(found: list[Batch]) -> Counter[int]:
    labels = torch.cat([batch["labels"].flatten() for batch in found])
    return Counter(labels[labels != IGNORE].tolist())


def tokens_of(numbers: Iterable[int], made: Context) -> Counter[int]:
    """The tokens of these texts, each with its end."""
    encoded = made.tokenizer([said(i) for i in numbers], add_special_tokens=False)["input_ids"]
    return Counter(t for ids in encoded for t in [*ids, made.tokenizer.eos_token_id])


# The buffer.


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_a_buffer_shuffles_and_loses_nothing(size: int) -> None:
    rows = [{"text": str(i)} for i in range(200)]
    ours = list(shuffled(rows, size, "0:0"))
    assert sorted(int(row["text"]) for row in ours) == list(range(200))
    assert ours == list(shuffled(rows, size, "0:0"))
    if size > 1:
        assert ours != rows and ours != list(shuffled(rows, size, "0:1"))
    if size < 200:
        # No row comes before the buffer could have held it.
        assert all(int(row["text"]) < at + size + 1 for at, row in enumerate(ours))


class Watched(list):
    """Rows that say how many were asked for."""

    asked = 0

    def __iter__(self) -> Any:
        for row in list.__iter__(self):
            self.asked += 1
            yield row


def test_a_buffer_holds_as_many_rows_as_it_says() -> None:
    rows = Watched({"text": str(i)} for i in range(500))
    most = 0
    for given, _ in enumerate(shuffled(rows, 30, "s"), start=1):
        most = max(most, rows.asked - given)
    assert most == 30


# The batches.


@pytest.mark.parametrize("kind", ["instruction", "text"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_is_trained_once_an_epoch_in_another_order(
    tmp_path: Path, net: Path, shape: str, kind: str
) -> None:
    made = context(tmp_path, net, kind, **SHAPES[shape])
    first, again, second = (batches(made, epoch=epoch) for epoch in (0, 0, 1))
    assert same(first, again) and not same(first, second)
    held_out = 4 + 3
    for found in (first, second):
        # An instruction says its number twice, in the prompt and in the answer; the blocks of a
        # text may cut a word in two.
        seen = Counter(read_back(found, made))
        if kind == "instruction":
            assert seen == dict.fromkeys(range(held_out, ROWS), 2)
        else:
            assert max(seen.values()) == 1 and len(seen) > 0.8 * (ROWS - held_out)
            assert learned(found) == tokens_of(range(held_out, ROWS), made)
        counted = sum(batch[COUNTS]["supervised"] for batch in found)
        assert counted == learned(found).total()
    other = batches(replace(made, seed=1))
    assert not same(first, other)


@pytest.mark.parametrize("kind", ["instruction", "text"])
@pytest.mark.parametrize("shape", SHAPES)
def test_workers_change_no_batch(tmp_path: Path, net: Path, shape: str, kind: str) -> None:
    made = context(tmp_path, net, kind, **SHAPES[shape])
    more = replace(made, task=replace(made.task, num_workers=2))
    assert same(batches(made, epoch=1), batches(more, epoch=1))


@pytest.mark.parametrize("kind", ["instruction", "text"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_anywhere_bit_for_bit(
    tmp_path: Path, net: Path, shape: str, kind: str, workers: int
) -> None:
    made = context(tmp_path, net, kind, num_workers=workers, **SHAPES[shape])
    whole = batches(made, epoch=2)
    found = loader_of(made)
    last = len(whole)
    for start in sorted({0, 1, 2, *range(3, last, 30 if workers else 9), last - 1, last}):
        found.load_state_dict({"epoch": 2, "batches": start})
        rest = list(found)
        assert [b["input_ids"].tolist() for b in rest] == [
            b["input_ids"].tolist() for b in whole[start:]
        ]
        assert all(
            torch.equal(a["labels"], b["labels"]) for a, b in zip(rest, whole[start:], strict=True)
        )
    # The pass after it begins at the beginning.
    assert same(list(found), whole)


def test_what_is_skipped_is_not_tokenised(tmp_path: Path, net: Path) -> None:
    made = context(tmp_path, net, "instruction")
    found = loader_of(made)
    count = len(list(found))
    encoded: list[int] = []
    units: Any = found.dataset.units
    units.encode = lambda rows: encoded.append(len(rows)) or type(units).encode(units, rows)
    found.load_state_dict({"epoch": 0, "batches": count - 2})
    assert len(list(found)) == len(encoded) == 2 and sum(encoded) <= 6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_named_by_its_place_in_the_source(tmp_path: Path, net: Path, shape: str) -> None:
    """In a message, and by the index that a guard reports; not by its place in a batch."""
    made = context(tmp_path, net, "instruction", **SHAPES[shape])
    (row, *_), shift = made.examples.stream.rows(Counter()), 7  # validation and test are held out
    assert f"<{shift}>" in row["messages"][0]["content"]
    if not getattr(made.task, "packing", False):
        for batch in batches(made):
            indices = [i for i in batch["index"].tolist() if i >= 0]
            assert read_back([batch], made)[::2] == [shift + i for i in indices]
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines()
    lines[shift + 150] = json.dumps({"prompt": "long " * 400, "completion": "yes"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    refusing = replace(made, task=replace(made.task, overflow="error"))
    with pytest.raises(UserError, match=r"data.overflow: row 150 has"):
        batches(refusing)


# Ranks.


@pytest.mark.parametrize("kind", ["instruction", "text"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_updates_of_one_process(
    tmp_path: Path, net: Path, shape: str, kind: str, world: int
) -> None:
    alone = context(tmp_path, net, kind, accumulate=2 * world, **SHAPES[shape])
    spread = replace(alone, accumulate=2)
    one = batches(alone)
    parts = [batches(spread, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1, "collectives stay in step"

    def updates(steps: list[list[Batch]], size: int) -> list[list[Any]]:
        groups = [steps[k : k + size] for k in range(0, len(steps), size)]
        return [sorted(rows_of(b for step in group for b in step)) for group in groups]

    together = [list(step) for step in zip(*parts, strict=True)]
    assert updates(together, 2) == updates([[b] for b in one], 2 * world)


def rows_of(found: Any) -> list[Any]:
    """(tokens, labels) of each row without padding and fillers."""
    rows = []
    for batch in found:
        for ids, labels, mask, index in zip(
            *(batch[n] for n in ("input_ids", "labels", "attention_mask", "index")), strict=True
        ):
            if index >= 0:
                rows.append((ids[mask.bool()].tolist(), labels[mask.bool()].tolist()))
    return rows


# Through Lightning.


@pytest.mark.parametrize(
    ("kind", "shape", "workers"),
    [
        ("text", {"packing": True}, 0),
        pytest.param("instruction", {}, 2, marks=pytest.mark.long),
        pytest.param("text", {}, 2, marks=pytest.mark.long),
        pytest.param("instruction", {"tokens_per_batch": 400}, 0, marks=pytest.mark.long),
    ],
)
def test_a_run_goes_on_from_every_checkpoint_to_the_same_bits(
    tmp_path: Path, net: Path, kind: str, shape: dict[str, Any], workers: int
) -> None:
    changes = {"num_workers": workers, "batch_size": 8, **shape}
    made = context(tmp_path, net, kind, accumulate=2, **changes)
    short = replace(made.task.limit, train=32)
    task = replace(made.task, limit=short, generation=replace(made.task.generation, examples=0))
    made = replace(made, task=task, examples=load_examples(task))
    copies = tmp_path / "copies"
    copies.mkdir()
    settings = {"max_steps": 5, "max_epochs": 9, "val_check_interval": 3}
    whole = carried(tmp_path / "whole", made, copies, None, **settings)
    read = dict(made.examples.encoding["train"])
    assert whole["tokens"] == read["tokens"] and whole["step"] == 5
    assert whole["history"][-1]["epoch"] > 0, "it crosses an epoch"
    for point in sorted(copies.iterdir()):
        assert_equal(whole, carried(point, made, None, None, **settings), point.name)
        assert made.examples.encoding["train"] == read
