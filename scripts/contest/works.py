"""The works: rows, checkpoints and shapes that every contestant is given, made on the spot."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contest.sides import ROOT
from peers.work import Work

SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare" / "input.txt"


@dataclass(frozen=True)
class Sizes:
    """How much work there is; figures of other sizes are never mixed."""

    rows: int
    """Of the classification."""
    questions: int
    """Of the instruction tuning."""
    updates: int
    """From scratch, and of the one-layer network."""
    short: int
    """Updates of the share of the roof."""
    width: int = 256
    """Of the random Llama; from this follows the rest of it."""
    layers: int = 8


TINY = Sizes(rows=64, questions=12, updates=6, short=2, width=64, layers=2)


@dataclass(frozen=True)
class Works:
    classes: Work
    pairs: Work
    one_layer: Work
    text: Work
    short: int


def works(folder: Path, sizes: Sizes) -> Works:
    """Write rows and checkpoints into a folder."""
    from llmexp.configure.compose import compose_jobs
    from llmexp.configure.preflight import build

    (job,) = compose_jobs(["model=minilm"], "run", None, False)
    minilm = build(job.tree, job.where).model.location()
    train, test = topics(folder, sizes.rows)
    classes = Work(
        task="classification", model=minilm, train=train, test=test, trains="full", epochs=1,
        batch_size=16, max_length=128, learning_rate=1e-4,
    )  # fmt: skip
    one = Work(
        task="classification", model=one_layer(folder / "one_layer", minilm), train=train,
        test=test, trains="full", epochs=1 + 4 * sizes.updates // max(1, sizes.rows),
        batch_size=4, max_length=32, learning_rate=1e-4,
    )  # fmt: skip
    return Works(classes, pairs(folder, sizes), one, text(folder, sizes.updates), sizes.short)


def topics(folder: Path, count: int) -> tuple[str, str]:
    """Docstrings of Python's standard library and the area each belongs to, shuffled."""
    from llmexp.data.pydocs import read_pydocs

    known: set[str] = set()
    for split, rows in (("train", count), ("test", max(24, count // 4))):
        found = [dict(row) for _, row in read_pydocs(f"pydocs:topics:{split}")]
        random.Random(0).shuffle(found)
        known = known or {row["label"] for row in found[:rows]}
        kept = [row for row in found if row["label"] in known]
        write(folder / f"topics_{split}.jsonl", kept[:rows])
    return str(folder / "topics_train.jsonl"), str(folder / "topics_test.jsonl")


def pairs(folder: Path, sizes: Sizes) -> Work:
    """Questions and answers, and a random Llama with a tokenizer trained on them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmexp.data.pydocs import read_pydocs
    from llmexp.tokenizers import byte_bpe

    asked = questions([dict(row) for _, row in read_pydocs("pydocs:instruct:train")])
    train, test = asked[: sizes.questions], asked[-24:]
    write(folder / "pairs_train.jsonl", train)
    write(folder / "pairs_test.jsonl", test)
    tokenizer = byte_bpe((row["prompt"] + row["completion"] for row in asked), 7321)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=sizes.width * 43 // 16,
        num_hidden_layers=sizes.layers,
        num_attention_heads=8,
        max_position_embeddings=512,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    return Work(
        task="instruction", model=str(folder / "llama"), train=str(folder / "pairs_train.jsonl"),
        test=str(folder / "pairs_test.jsonl"), trains="lora", epochs=1, batch_size=8,
        max_length=512, learning_rate=1e-3,
    )  # fmt: skip


def questions(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Three to eight signatures and what each function does: some 150 tokens, of many lengths.

    As the template `plain` writes it: a line break after the prompt, none around the answer.
    """
    draw = random.Random(0)
    draw.shuffle(rows)
    found = []
    while len(rows) >= 8:
        some, rows = rows[: (n := draw.randint(3, 8))], rows[n:]
        asked = "\n".join(["Describe each function.", *(row["input"].strip() for row in some)])
        told = "\n".join(row["output"].strip() for row in some)
        found.append({"prompt": f"{asked}\n", "completion": told})
    return found


def one_layer(folder: Path, like: str) -> str:
    """A BERT of one block, 16 wide, with the tokenizer of another."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(like)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def text(folder: Path, updates: int) -> Work:
    """A million characters of Shakespeare where they are, else of Python's documentation."""
    from llmexp.data.pydocs import read_pydocs

    if SHAKESPEARE.is_file():
        written = SHAKESPEARE.read_text(encoding="utf-8")
    else:
        print(f"{SHAKESPEARE.name} is not there: P11 trains on Python's documentation")
        documents = "\n".join(str(row["text"]) for _, row in read_pydocs("pydocs:text:train"))
        written = documents.encode("ascii", "ignore").decode()[:1_100_000]
    cut = len(written) * 99 // 100
    for name, part in (("train", written[:cut]), ("test", written[cut:])):
        (folder / f"text_{name}.txt").write_text(part, encoding="utf-8")
    return Work(
        task="text", model=json.dumps({"n_layer": 4, "n_head": 4, "n_embd": 128}),
        train=str(folder / "text_train.txt"), test=str(folder / "text_test.txt"), trains="scratch",
        epochs=-1, steps=updates, batch_size=12, max_length=64, learning_rate=1e-3,
    )  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
