"""The works: rows, checkpoints and shapes that every contestant is given, made on the spot."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contest.sides import ROOT
from peers.work import Work

FEW = 4
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
    first: dict[str, Work]
    """One update on rows of like length, by task."""
    short: int


def works(folder: Path, sizes: Sizes) -> Works:
    """Write rows and checkpoints into a folder."""
    from llmexp.configure.compose import compose_jobs
    from llmexp.configure.preflight import build

    (job,) = compose_jobs(["model=minilm"], "run", None, False)
    minilm = build(job.tree, job.where).model.location()
    train, test, few = topics(folder, sizes.rows)
    classes = Work(
        task="classification", model=minilm, train=train, test=test, few=few, trains="full",
        epochs=1, batch_size=16, max_length=128, learning_rate=1e-4,
    )  # fmt: skip
    one = replace(
        classes, model=one_layer(folder / "one_layer", minilm), batch_size=4, max_length=32,
        epochs=1 + 4 * sizes.updates // max(1, sizes.rows),
    )  # fmt: skip
    asked = pairs(folder, sizes)
    first = {work.task: first_step(work, folder) for work in (classes, asked)}
    return Works(classes, asked, one, text(folder, sizes.updates), first, sizes.short)


def first_step(work: Work, folder: Path) -> Work:
    """One update on the third of the rows that is nearest to the median length.

    Contestants draw different rows first: of like length they are like work. Nothing is read off
    the test, which takes the same rows.
    """
    rows = sorted(work.rows("train"), key=lambda row: sum(map(len, row.values())))
    path = folder / f"{work.task}_first.jsonl"
    write(path, rows[len(rows) // 3 : -(len(rows) // 3)])
    same = str(path)
    return replace(work, train=same, test=same, few=same, steps=1, flags="first")


def topics(folder: Path, count: int) -> tuple[str, str, str]:
    """Docstrings of Python's standard library and the area each belongs to, shuffled.

    Train rows, test rows and a few of these.
    """
    from llmexp.data.pydocs import read_pydocs

    known: set[str] = set()
    for split, rows in (("train", count), ("test", max(24, count // 4))):
        found = [dict(row) for _, row in read_pydocs(f"pydocs:topics:{split}")]
        random.Random(0).shuffle(found)
        known = known or {row["label"] for row in found[:rows]}
        kept = [row for row in found if row["label"] in known]
        write(folder / f"topics_{split}.jsonl", kept[:rows])
    write(folder / "topics_few.jsonl", kept[:FEW])
    train, test, few = (str(folder / f"topics_{x}.jsonl") for x in ("train", "test", "few"))
    return train, test, few


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
    write(folder / "pairs_few.jsonl", test[:FEW])
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
        test=str(folder / "pairs_test.jsonl"), few=str(folder / "pairs_few.jsonl"),
        trains="lora", epochs=1, batch_size=8, max_length=512, learning_rate=1e-3,
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
    """An MPNet of one block, 16 wide, with the tokenizer of another.

    Of a family whose last block we do not shorten to one position: all compute the same.
    """
    import torch
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel

    tokenizer = AutoTokenizer.from_pretrained(like)
    torch.manual_seed(0)
    config = MPNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    MPNetModel(config).save_pretrained(folder)
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
        train=str(folder / "text_train.txt"), test=str(folder / "text_test.txt"),
        few=str(folder / "text_test.txt"), trains="scratch", epochs=-1, steps=updates,
        batch_size=12, max_length=64, learning_rate=1e-3, weight_decay=0.1,
    )  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
