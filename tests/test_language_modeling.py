"""Every token of every document is learned once, and scores do not depend on how it was cut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmexp.models import HFModel
from llmexp.tasks.base import IGNORE, Examples
from llmexp.tasks.generation import Generation
from llmexp.tasks.language_modeling import LanguageModeling
from tests import tiny

TEXTS = ["the quick brown fox", "a question: é ☃?", "jumps over the lazy dog and runs away"]
ROWS = [{"text": text} for text in TEXTS]


def task(**fields: Any) -> LanguageModeling:
    return LanguageModeling(train="train.txt", **fields)


def with_bos() -> Any:
    made = tiny.tokenizer()
    made.add_special_tokens({"bos_token": "<s>"})
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
    )
    return made


@pytest.mark.parametrize("make", [tiny.tokenizer, with_bos])
@pytest.mark.parametrize("length", [1, 5, 16, 1000])
def test_blocks_learn_every_token_and_eos_once(make: Any, length: int) -> None:
    made = make()
    blocks = task().encode(ROWS, made, length, []).rows
    learned = [label for block in blocks for label in block["labels"] if label != IGNORE]
    each = [[*made(t, add_special_tokens=False)["input_ids"], made.eos_token_id] for t in TEXTS]
    assert learned == [token for tokens in each for token in tokens]
    assert all(len(b["input_ids"]) == len(b["labels"]) <= length for b in blocks)
    assert all(len(b["input_ids"]) == length for b in blocks[:-1])
    assert sum(b["text_bytes"] for b in blocks) == len("".join(TEXTS).encode())
    assert [b["index"] for b in blocks] == sorted(b["index"] for b in blocks)
    stream = [token for b in blocks for token in b["input_ids"]]
    assert stream.count(made.bos_token_id) == (len(TEXTS) if made.bos_token_id else 0)


def test_a_block_predicts_the_token_that_follows() -> None:
    made = tiny.tokenizer()
    for block in task().encode(ROWS, made, 7, []).rows:
        assert block["input_ids"][1:] == block["labels"][:-1]


def scored(net: Any, made: Any, length: int, size: int) -> dict[str, float]:
    blocks = task().encode(ROWS, made, length, []).rows
    scores = task().scores([])
    for k in range(0, len(blocks), size):
        scores.update(task().loss(net, task().collate(blocks[k : k + size], 0)))
    return scores.compute()


def test_scores_are_exact_over_batches_and_bits_are_of_the_text(tmp_path: Path) -> None:
    net = AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path)).eval()
    made = AutoTokenizer.from_pretrained(tmp_path)
    one, two = scored(net, made, 16, 1), scored(net, made, 16, 4)
    assert two == pytest.approx(one, rel=1e-6)
    tokens = sum(len(made(t)["input_ids"]) + 1 for t in TEXTS)
    size = len("".join(TEXTS).encode())
    assert one["bits_per_byte"] == pytest.approx(one["loss"] * tokens / math.log(2) / size)
    assert one["perplexity"] == pytest.approx(math.exp(one["loss"]))


def test_a_filler_adds_nothing(tmp_path: Path) -> None:
    from llmexp.data.batches import TokenRows

    net = AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path)).eval()
    rows = TokenRows(task().encode(ROWS, tiny.tokenizer(), 16, []).rows)
    alone, filled = task().scores([]), task().scores([])
    for scores, picks in ((alone, [0, 1]), (filled, [0, 1, -1])):
        scores.update(task().loss(net, task().collate([rows[i] for i in picks], 0)))
    nothing = task().loss(net, task().collate([rows[-1]], 0))
    filled.update(nothing)
    assert filled.compute() == pytest.approx(alone.compute(), rel=1e-6)
    nothing.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


def test_the_baseline_is_the_entropy_of_bytes() -> None:
    examples = Examples([{"text": "ab" * 50_000}], [], [{"text": "abba"}])
    assert task().baseline(examples)["test/bits_per_byte"] == pytest.approx(1.0, abs=0.01)


def test_samples_go_on_from_the_beginning_of_a_document(tmp_path: Path) -> None:
    net = AutoModelForCausalLM.from_pretrained(tiny.gpt2(tmp_path)).eval()
    made = AutoTokenizer.from_pretrained(tmp_path)
    asked = task(generation=Generation(max_new_tokens=5, examples=2))
    long = {"text": "the quick brown fox jumps over the lazy dog. " * 20}
    written = asked.written(net, [long, ROWS[1]], made)
    assert long["text"].startswith(written[0]["input"] + written[0]["reference"])
    assert len(made(written[0]["input"])["input_ids"]) == 32
    assert ROWS[1]["text"].startswith(written[1]["input"]) and written[1]["input"]
    ids = [made.eos_token_id, *made(written[0]["input"])["input_ids"]]
    out = net.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False)[0, len(ids) :]
    text = made.decode(out, skip_special_tokens=True)
    assert written[0]["prediction"] == text


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    model = HFModel(path=str(tiny.bert(tmp_path)))
    (complaint,) = task().check(model)
    assert "language_modeling needs a decoder" in complaint
    assert "strategy=from_scratch model=tiny_llama" in complaint


@pytest.mark.parametrize("name", ["TinyStories-valid.txt", "tiny_stories.txt"])
def test_a_real_story_model_knows_stories(tmp_path: Path, name: str) -> None:
    folder = tiny.stories260k(tmp_path)
    path = tiny.SHARED / "tinystories" / name
    if folder is None or not path.is_file():
        pytest.skip("../shared/data/stories260k or tinystories is not here")
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    made = HFModel(path=str(folder)).load_tokenizer()
    stories = path.read_text(encoding="utf-8").replace("\n\n", "\0").split("\n")[:12]
    rows = [{"text": story.replace("\0", "\n\n")[:1500]} for story in stories]
    scores = task().scores([])
    for row in rows:
        (block, *_) = task().encode([row], made, 512, []).rows
        with torch.no_grad():
            scores.update(task().loss(net, task().collate([block], 0)))
    assert 1.0 < scores.compute()["loss"] < 1.8
