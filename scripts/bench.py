"""Times this project against its peers on the same rows, seed, batch size and updates.

    python scripts/bench.py                    every work, three alternating pairs, the table
    python scripts/bench.py P1 P4 --pairs 5    some of them
    python scripts/bench.py --json out.json --svg docs/benchmarks.svg

A peer that is not installed is left out and named: pip install 'llmexp[bench]' brings those that
pip can. Each contestant is a process of its own, one after another in turn; a ratio is the median
of the pairs' ratios, so that a noisy machine slows both sides alike.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from work import Work  # noqa: E402

Report = dict[str, Any]
QUIET = ["tracking=none", "trainer.limit_val_batches=0", "callbacks.checkpoint=null"]
QUIET += ["callbacks.early_stopping=null"]


@dataclass(frozen=True)
class Contestant:
    """A name for the table and the command that does a piece of work."""

    name: str
    command: Callable[[Path], list[str]]
    package: str | None = None


@dataclass(frozen=True)
class Bench:
    """Ours against one other on one work: how often better it must be, measured how."""

    number: str
    title: str
    ours: Contestant
    other: Contestant
    measure: str
    """fit_seconds, wall_seconds, first_step_seconds or tokens_per_second."""
    bar: float


def timed(contestant: Contestant, folder: Path) -> Report:
    """Run one contestant; its report with wall_seconds and peak_memory_mb of its processes."""
    folder.mkdir(parents=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    began = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            contestant.command(folder), stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    if status != 0:
        sys.exit(f"{contestant.name} failed:\n{text[-3000:]}")
    result = folder / "run" / "result.json"
    found = ours(json.loads(result.read_text())) if result.is_file() else last_json(text)
    found |= {"wall_seconds": wall, "peak_memory_mb": usage.ru_maxrss / 1024}
    if found.get("tokens"):
        found["tokens_per_second"] = found["tokens"] / found["fit_seconds"]
    return found


def ours(result: Report) -> Report:
    """A result.json in the words of a contestant; the frozen prefix is part of the fit."""
    cost = result["cost"]
    seconds = cost["fit_seconds"] + (0 if cost["cache_hit"] else cost["prefix_seconds"])
    metrics = result["metrics"]
    return {
        "fit_seconds": seconds,
        "first_step_seconds": cost.get("first_step_seconds"),
        "tokens": cost["tokens_trained"],
        "loss": metrics.get("train/loss"),
        "accuracy": metrics.get("test/accuracy"),
    }


def last_json(text: str) -> Report:
    found: Report = json.loads([line for line in text.splitlines() if line.startswith("{")][-1])
    return found


def peer(name: str, script: str, work: Work, package: str | None = None) -> Contestant:
    """One of scripts/peers on a work."""

    def command(folder: Path) -> list[str]:
        (folder / "work.json").write_text(json.dumps(asdict(work)), encoding="utf-8")
        return [sys.executable, str(HERE / "peers" / script), str(folder / "work.json")]

    return Contestant(name, command, package)


STRATEGY = {
    "head": ["strategy=head_only"],
    "top1": ["strategy=partial_finetune", "strategy.top_blocks=1"],
    "full": ["strategy=full_finetune"],
    "lora": ["strategy=lora"],
    "qlora": ["strategy=qlora", "strategy.dequantize=always"],
    "features": ["strategy=feature_based"],
}


def llmexp(work: Work, *more: str, cache: Path | None = None) -> Contestant:
    """This project on a work; its caches are fresh unless a folder of warm ones is given."""

    def command(folder: Path) -> list[str]:
        overrides = [
            *STRATEGY[work.trains],
            "model=minilm" if work.task == "classification" else "model=local",
            f"model.path={work.model}",
            f"data={work.task}",
            f"data.train={work.train}",
            f"data.test={work.test}",
            f"data.max_length={work.max_length}",
            f"data.batch_size={work.batch_size}",
            f"trainer.max_epochs={work.epochs}",
            f"optim.learning_rate={work.learning_rate}",
            f"seed={work.seed}",
            f"cache.dir={cache or folder / 'cache'}",
            f"hydra.run.dir={folder / 'run'}",
            *QUIET,
            *more,
        ]
        if work.task == "instruction":
            overrides += ["data.template=plain", "data.generation.examples=0"]
        if work.trains == "features":
            overrides = [o for o in overrides if not o.startswith(("optim.", "trainer.", "callb"))]
        return [sys.executable, str(HERE.parent / "run.py"), *overrides]

    return Contestant("llmexp", command)


def benches(classes: Work, instruct: Work, warm: Path) -> list[Bench]:
    """What is compared, by the numbers of docs/benchmarks.md."""
    head = replace(classes, trains="head", epochs=10)
    top = replace(classes, trains="top1", epochs=3)
    full, lora = replace(classes, trains="full"), replace(classes, trains="lora")
    features = replace(classes, trains="features")

    def hf(work: Work, flags: str = "best") -> Contestant:
        return peer(f"HF Trainer, {flags}", "hf_trainer.py", replace(work, flags=flags))

    def trl(work: Work, flags: str) -> Contestant:
        return peer(f"TRL, {flags}", "trl_sft.py", replace(work, flags=flags), "trl")

    sentence = peer(
        "sentence-transformers + scikit-learn", "sentence.py", features, "sentence_transformers"
    )
    found = [
        Bench("P1", "head_only, 10 epochs", llmexp(head), hf(head), "fit_seconds", 8),
        Bench("P3", "feature_based", llmexp(features), sentence, "wall_seconds", 1.1),
        Bench("P4", "partial_finetune, top block", llmexp(top), hf(top), "fit_seconds", 1.6),
        Bench("P10", "first step, head_only", llmexp(head), hf(head), "first_step_seconds", 1),
    ]
    for work in (full, lora):
        title = {"full": "full_finetune", "lora": "lora"}[work.trains]
        loop = peer("hand-written loop", "loop.py", work)
        found.append(Bench("P5", title, llmexp(work), loop, "tokens_per_second", 0.97))
        found.append(Bench("P5", title, llmexp(work), hf(work), "tokens_per_second", 1.0))
        default = hf(work, "default")
        found.append(Bench("P5", title, llmexp(work), default, "tokens_per_second", 1.6))
    for number, trains, bar in (("P6", "lora", 1.45), ("P7", "qlora", 1.7)):
        work = replace(instruct, trains=trains)
        loop = peer("hand-written loop", "loop.py", work)
        title = f"{trains}, instruction"
        best, default = trl(work, "best"), trl(work, "default")
        found.append(Bench(number, title, llmexp(work), best, "tokens_per_second", bar))
        found.append(Bench(number, title, llmexp(work), default, "tokens_per_second", bar))
        found.append(Bench(number, title, llmexp(work), loop, "tokens_per_second", 0.97))
    return found


def make_works(folder: Path, rows: int, pairs: int) -> tuple[Work, Work]:
    """Rows out of Python's documentation and a random Llama of 7.8 M parameters, in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmexp.configure.compose import compose_jobs
    from llmexp.configure.preflight import build
    from llmexp.data.pydocs import read_pydocs
    from llmexp.tokenizers import byte_bpe

    (job,) = compose_jobs(["model=minilm"], "run", None, False)
    minilm = build(job.tree, job.where).model.location()
    topics = {s: [r for _, r in read_pydocs(f"pydocs:topics:{s}")] for s in ("train", "test")}
    asked = [row for _, row in read_pydocs("pydocs:instruct:train")][:pairs]
    for split, found in topics.items():
        random.Random(0).shuffle(found)
        _write(folder / f"{split}.jsonl", [dict(r) for r in found][:rows])
    rows_of = [
        {"prompt": f"{r['instruction']}\n{r.get('input', '')}\n", "completion": r["output"]}
        for r in asked
    ]
    _write(folder / "pairs.jsonl", rows_of)
    _write(folder / "pairs_test.jsonl", rows_of[:16])
    tokenizer = byte_bpe((r["prompt"] + r["completion"] for r in rows_of), 7321)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=512,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    where = {s: str(folder / f"{s}.jsonl") for s in ("train", "test", "pairs", "pairs_test")}
    shared = {"trains": "full", "epochs": 1, "seed": 0}
    classes = Work("classification", minilm, where["train"], where["test"], **shared,
                   batch_size=16, max_length=128, learning_rate=1e-4)  # fmt: skip
    instruct = Work("instruction", str(folder / "llama"), where["pairs"], where["pairs_test"],
                    **shared, batch_size=8, max_length=512, learning_rate=1e-3)  # fmt: skip
    return classes, instruct


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def ratio(bench: Bench, one: Report, other: Report) -> float:
    """How many times better ours is."""
    a, b = one[bench.measure], other[bench.measure]
    return a / b if bench.measure == "tokens_per_second" else b / a


def main() -> None:
    parser = argparse.ArgumentParser(description="Ours against its peers on the same work.")
    parser.add_argument("numbers", nargs="*", help="P1, P3 ...; all where none is named")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000, help="of the classification")
    parser.add_argument("--questions", type=int, default=400, help="of the instruction tuning")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes, instruct = make_works(folder, asked.rows, asked.questions)
        found = []
        for i, bench in enumerate(benches(classes, instruct, folder / "warm")):
            if asked.numbers and bench.number not in asked.numbers:
                continue
            if bench.other.package and find_spec(bench.other.package) is None:
                print(f"{bench.number} {bench.other.name}: not installed, left out")
                continue
            pairs = []
            for k in range(asked.pairs):
                sides = [bench.ours, bench.other]
                done = {
                    side.name: timed(side, folder / f"{i}_{k}_{j}")
                    for j, side in enumerate(sides if k % 2 == 0 else sides[::-1])
                }
                pairs.append((done[bench.ours.name], done[bench.other.name]))
            ratios = [ratio(bench, *pair) for pair in pairs]
            middle = statistics.median(ratios)
            line = {
                "number": bench.number, "work": bench.title, "against": bench.other.name,
                "measure": bench.measure, "bar": bench.bar, "ratio": round(middle, 3),
                "ratios": [round(r, 3) for r in ratios], "pairs": pairs,
            }  # fmt: skip
            found.append(line)
            a, b = (statistics.median(p[s][bench.measure] for p in pairs) for s in (0, 1))
            print(f"{bench.number:4} {bench.title:28} {bench.other.name:38} {bench.measure:18} "
                  f"{a:10.2f} {b:10.2f} {middle:6.2f}x  bar {bench.bar}x", flush=True)  # fmt: skip
            if asked.json:
                asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
