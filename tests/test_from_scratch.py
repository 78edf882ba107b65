"""Any architecture starts from nothing, with a tokenizer that fits the data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmexp.errors import UserError
from llmexp.models import HFModel
from llmexp.strategies.from_scratch import FromScratch
from llmexp.tasks.base import Examples
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from llmexp.tokenizers import byte_bpe, char
from tests import nets, tiny

ROOT = Path(__file__).resolve().parents[1]
HARD = "Tabs\tand\n\n breaks,  é ☃ 𝄞 <|endoftext|> 'tis"
SHAPE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("train", [byte_bpe, char])
def test_a_trained_tokenizer_spells_its_text_and_travels(train: Any, tmp_path: Path) -> None:
    made = train([*tiny.TEXTS, HARD], 400)
    ids = made(HARD)["input_ids"]
    assert made.decode(ids) == HARD and made.unk_token_id not in ids
    assert {made.eos_token_id, made.pad_token_id, made.unk_token_id} == {0, 1, 2}
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(HARD)["input_ids"] == ids and again.decode(ids) == HARD
    assert again.eos_token_id == 0 and len(again) == len(made)


def test_byte_bpe_spells_anything_and_char_says_unknown() -> None:
    bpe, letters = byte_bpe(["abc abc"], 300), char(["abc abc"], 300)
    assert bpe.decode(bpe(HARD)["input_ids"]) == HARD
    assert letters("abz\n")["input_ids"][2:] == [letters.unk_token_id] * 2
    assert len(letters) == 3 + len(set("abc abc"))
    with pytest.raises(UserError, match=r"model.vocab_size: byte_bpe needs at least 259"):
        byte_bpe(["abc"], 100)


def test_the_same_texts_give_the_same_tokenizer() -> None:
    for train in (byte_bpe, char):
        one, two = (train(iter(tiny.TEXTS), 350).backend_tokenizer.to_str() for _ in range(2))
        assert one == two


def known(model: HFModel, task: Any, rows: list[Any], labels: list[str]) -> tuple[Any, Any, Any]:
    examples = Examples(rows, rows, rows, labels=labels)
    strategy = FromScratch()
    assert strategy.check(model, task, None) == []  # type: ignore[arg-type]
    tokenizer = strategy.tokenizer(model, task, examples)
    return examples, tokenizer, strategy.config(model, task, examples, tokenizer)


@pytest.mark.parametrize("kind", ["byte_bpe", "char", None])
def test_embeddings_follow_the_tokenizer(kind: str | None) -> None:
    model = HFModel(path=None, kind="decoder", architecture=SHAPE, tokenizer=kind, vocab_size=320)
    rows = [{"text": text} for text in tiny.TEXTS]
    _, tokenizer, config = known(model, LanguageModeling(train="t.txt"), rows, [])
    net = model.random(AutoModelForCausalLM, config)
    assert net.get_input_embeddings().num_embeddings == len(tokenizer) == config.vocab_size
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
    ids = tokenizer(tiny.TEXTS[0], return_tensors="pt")["input_ids"]
    assert net(ids).logits.shape[-1] == len(tokenizer)


def test_instruction_rows_train_the_tokenizer_too() -> None:
    model = HFModel(path=None, kind="decoder", architecture=SHAPE, tokenizer="char")
    turns = [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "xyz"}]
    rows = [{"messages": turns}]
    _, tokenizer, _ = known(model, Instruction(train="t.jsonl", template="plain"), rows, [])
    assert tokenizer.unk_token_id not in tokenizer("abcxyz")["input_ids"]


def test_a_checkpoint_lends_its_architecture_and_tokenizer_but_no_weight(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "net")
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(tiny.TEXTS)]
    task = Classification(train="t.jsonl")
    examples = Examples(rows, rows, rows, labels=["a", "b"])
    made = nets.context(folder, FromScratch(), (task, examples))
    pretrained = made.model.load(task.auto_class(), made.config).state_dict()
    torch.manual_seed(7)  # the folder's own weights came of seed 0
    random = made.strategy.load(made).state_dict()
    assert {n: v.shape for n, v in random.items()} == {n: v.shape for n, v in pretrained.items()}
    matrices = [n for n, v in random.items() if v.ndim == 2]
    assert matrices and not any(torch.equal(random[n], pretrained[n]) for n in matrices)
    assert made.tokenizer("fox")["input_ids"][0] == made.tokenizer.cls_token_id


def test_a_folder_without_a_tokenizer_gets_one_trained(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path)
    for path in folder.glob("*token*"):
        path.unlink()
    model = HFModel(path=str(folder), vocab_size=280)
    rows = [{"text": text} for text in tiny.TEXTS]
    _, tokenizer, config = known(model, LanguageModeling(train="t.txt"), rows, [])
    assert config.vocab_size == len(tokenizer) <= 280


def run(tmp_path: Path, name: str, *overrides: str) -> dict[str, Any]:
    folder = tmp_path / name
    fixed = [f"hydra.run.dir={folder}", "tracking=none", f"cache.dir={tmp_path / 'cache'}"]
    command = [sys.executable, "run.py", *overrides, *fixed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads((folder / "result.json").read_text())


@pytest.mark.long
def test_pretrain_then_adapt(tmp_path: Path) -> None:
    """From nothing to text, and from there to instructions, both embedded and offline."""
    few = ["data.limit.train=64", "data.limit.validation=8", "data.limit.test=8"]
    small = ["data.generation.examples=2", "data.generation.max_new_tokens=8"]
    shape = ["model.architecture.num_hidden_layers=2", "model.vocab_size=1024"]
    base = ["strategy=from_scratch", "data=pydocs_text", *few, *small, *shape]
    first = run(tmp_path, "pretrained", *base)
    assert first["metrics"]["test/bits_per_byte"] < first["baseline"]["test/bits_per_byte"]
    again = run(tmp_path, "repeated", *base)
    assert again["metrics"] == first["metrics"]
    where = ["model=local", f"model.path={tmp_path / 'pretrained' / 'model'}"]
    second = run(tmp_path, "adapted", "strategy=lora", "data=pydocs_instruct", *where, *few, *small)
    assert {"test/exact_match", "test/bleu", "test/rouge_l", "test/chrf"} <= set(second["metrics"])
    assert second["cost"]["trainable_parameters"] < first["cost"]["trainable_parameters"] / 5
    lines = (tmp_path / "adapted" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1]
    assert "### Response:" in (tmp_path / "adapted" / "model" / "chat_template.jinja").read_text()


@pytest.mark.long
def test_random_weights_classify_too(tmp_path: Path) -> None:
    few = ["data.limit.train=32", "data.limit.validation=8", "data.limit.test=8"]
    result = run(tmp_path, "random", "strategy=from_scratch", "trainer.max_epochs=1", *few)
    cost = result["cost"]
    assert cost["trainable_parameters"] == cost["total_parameters"] > 20_000_000
