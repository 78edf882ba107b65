"""Measures training on one CUDA GPU, with random weights of real shapes: nothing is downloaded.

    python scripts/bench_gpu.py                    every work, ours and TRL (where it is installed)
    python scripts/bench_gpu.py --only llama-3-8b-lora --steps 60     the others' figures are kept
    python scripts/bench_gpu.py --tiny             the whole path on a CPU; its figures mean nothing

Tokens a second leave out the first third of the steps. The share of the peak is 4 (adapters) or 6
(everything trained) operations for each weight of a matrix product and token, over what an
8192-cubed bfloat16 product reaches on the same device. The exit code is 1 where somebody failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contest import shapes
from contest.machine import machine
from contest.ours import ours, side
from contest.shapes import matmul_weights, text
from contest.sides import OURS, PEERS, ROOT, ContestantError, Report, Side, measured, peer
from contest.works import topics
from peers.work import Work

from llmexp.jobs.provenance import git_state


@dataclass(frozen=True)
class Job:
    """One work on a checkpoint of some shape."""

    name: str
    shape: str
    trains: str
    batch_size: int
    max_length: int
    bar: float | None = None
    """Tokens a second that are aimed at, on one H200."""


JOBS = [
    Job("llama-3-8b-lora", "llama-3-8b", "lora", 2, 4096, bar=14700),
    Job("llama-3-8b-qlora", "llama-3-8b", "qlora", 2, 4096),
    Job("mistral-7b-lora", "mistral-7b", "lora", 2, 4096),
    Job("mistral-7b-qlora", "mistral-7b", "qlora", 2, 4096),
    Job("llama-1b-full", "llama-1b", "full", 4, 4096),
    Job("gpt2-124m-scratch", "gpt2-124m", "scratch", 16, 1024),
    Job("distilbert-full", "distilbert", "full", 32, 512),
]


def language(job: Job, work: Work, tiny: bool) -> list[Side]:
    """Ours, with and without compiling, and TRL at its defaults and its faster flags, on blocks."""
    strategy = {"scratch": "from_scratch", "full": "full_finetune"}.get(job.trains, job.trains)
    words = [
        f"strategy={strategy}", "model=local", f"model.path={work.model}", "data=text",
        "data.test=null", "data.generation.examples=0", "trainer.log_every_n_steps=2",
        "trainer.limit_test_batches=1",
        f"hardware={'cpu' if tiny else 'gpu'}",
    ]  # fmt: skip
    kept = {"always": "dequantised", "never": "4 bits"} if job.trains == "qlora" else {}
    variants = {f"{OURS}, {name}": [f"strategy.dequantize={how}"] for how, name in kept.items()}
    variants = variants or {OURS: []}
    if not tiny:
        first, more = next(iter(variants.items()))
        variants[f"{first}, not compiled"] = [*more, "model.compile=false"]
    return [side(work, [*words, *more], name) for name, more in variants.items()] + trl(work, tiny)


def trl(work: Work, tiny: bool) -> list[Side]:
    """Plain, and where a GPU may profit of it compiled and with flash attention."""
    needs = ["trl"] if work.trains in ("full", "scratch") else ["trl", "peft"]
    found = [peer("TRL", "gpu_lm.py", work, *needs)]
    if not tiny:
        compiled, flash = replace(work, flags="compiled"), replace(work, flags="flash")
        found.append(peer("TRL, compiled", "gpu_lm.py", compiled, *needs))
        found.append(peer("TRL, flash attention", "gpu_lm.py", flash, *needs, "flash_attn"))
    return found


def classes(work: Work, tiny: bool) -> list[Side]:
    where = "hardware=cpu" if tiny else "hardware=gpu"
    return [
        ours(work, where, "trainer.log_every_n_steps=2"),
        peer("HF Trainer", "hf_trainer.py", work),
    ]


def curve(folder: Path) -> Report:
    """Of a run of ours: tokens a second in the later two thirds, and the device's memory."""
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [x["train/tokens_per_second"] for x in lines if "train/tokens_per_second" in x]
    memory = json.loads((folder / "result.json").read_text())["cost"]["peak_memory_mb"]
    found = {"gpu_memory_mb": memory}
    later = rates[len(rates) // 3 :]
    return found | ({"tokens_per_second": statistics.median(later)} if later else {})


def attempt(one: Side, folder: Path) -> Report | None:
    """A contestant's report; None where it failed, and an empty one where it is not installed."""
    if missing := one.missing():
        print(f"{one.name}: {', '.join(missing)} is not installed, left out")
        return {}
    try:
        found = measured(one, folder, gpu=True)
        return found | (curve(folder / "run") if (folder / "run").is_dir() else {})
    except ContestantError as error:
        print(error, file=sys.stderr)
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("outputs/bench/gpu.json"))
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    import torch

    if not torch.cuda.is_available() and not asked.tiny:
        print("bench_gpu: this machine has no CUDA GPU that torch can use; --tiny tries the path")
        return 2
    # In processes of their own, as the checkpoints are made: this one takes no GPU memory.
    best = json.loads(output(PEERS / "roof.py", 256 if asked.tiny else 8192))
    origin = {
        "device": best["device"], "peak_flops": best["flops_per_second"],
        "measured": datetime.now(UTC).date().isoformat(), **git_state(ROOT), "machine": machine(),
    }  # fmt: skip
    well = True
    for job in JOBS:
        if asked.only and job.name not in asked.only.split(","):
            continue
        for report in measure(job, asked, best["flops_per_second"]):
            keep(asked.json, {**report, **origin})
            well &= "failed" not in report
    return 0 if well else 1


def output(script: Path, *arguments: object) -> str:
    """The last line that a script prints."""
    command = [sys.executable, str(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return (done.stdout.splitlines() or [""])[-1]


def keep(path: Path, report: Report) -> None:
    """Write a report beside those of other works and contestants; it replaces its own earlier."""
    known = json.loads(path.read_text(encoding="utf-8"))["works"] if path.is_file() else []
    same = {"name": report["name"], "who": report["who"]}
    others = [one for one in known if {key: one[key] for key in same} != same]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"works": [*others, report]}, indent=1) + "\n", encoding="utf-8")


def measure(job: Job, asked: argparse.Namespace, peak: float) -> Iterator[Report]:
    """Every contestant on one work, one after another."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        work = made(job, asked, folder)
        encoder = work.task == "classification"
        sides = classes(work, asked.tiny) if encoder else language(job, work, asked.tiny)
        each = 4 if job.trains in ("lora", "qlora") else 6
        needed = 0 if encoder else each * matmul_weights(Path(work.model))
        for k, one in enumerate(sides):
            report = attempt(one, folder / str(k))
            if report is None:
                yield {**asdict(job), "who": one.name, "failed": True}
            elif report:
                rate = report.get("tokens_per_second", 0.0)
                share = needed * rate / peak if needed else None
                print(spoken(job, one, report, share), flush=True)
                yield {**asdict(job), "who": one.name, "share_of_peak": share, **report}


def made(job: Job, asked: argparse.Namespace, folder: Path) -> Work:
    """Rows and a checkpoint, and what is done with them."""
    written, encoder = text(folder), job.shape == "distilbert"
    size = "tiny" if asked.tiny else "whole"
    output(Path(shapes.__file__), folder / "model", job.shape, written, size)
    work = Work(
        task="text", model=str(folder / "model"), train=str(written), test=str(written),
        few=str(written), trains=job.trains, epochs=-1, steps=6 if asked.tiny else asked.steps,
        batch_size=job.batch_size, max_length=64 if asked.tiny else job.max_length,
        learning_rate=1e-4,
    )  # fmt: skip
    if not encoder:
        return work
    train, test, few = topics(folder, 48 if asked.tiny else 1378)
    return replace(work, task="classification", train=train, test=test, few=few, epochs=1, steps=-1)


def spoken(job: Job, one: Side, report: Report, share: float | None) -> str:
    rate, memory = report.get("tokens_per_second", 0.0), report.get("gpu_memory_mb") or 0.0
    told = "" if share is None else f"{share:.1%} of the peak"
    return f"{job.name:20} {one.name:24} {rate:10,.0f} tokens/s {memory:9,.0f} MB {told}"


if __name__ == "__main__":
    sys.exit(main())
