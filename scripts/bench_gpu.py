"""Measures training on one CUDA GPU, with random weights of real shapes: nothing is downloaded.

    python scripts/bench_gpu.py                    every work, ours and TRL (where it is installed)
    python scripts/bench_gpu.py --only llama-3-8b-lora --steps 60
    python scripts/bench_gpu.py --tiny             the whole path on a CPU; its figures mean nothing

Tokens a second leave out the first third of the steps. The share of the peak is 4 (adapters) or 6
(everything trained) operations for each weight of a matrix product and token, over what an
8192-cubed bfloat16 product reaches on the same device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contest.machine import machine
from contest.ours import ours, side
from contest.shapes import checkpoint, matmul_weights, text, tokenizer
from contest.sides import ContestantError, Report, Side, measured, peer
from contest.works import topics
from peers.work import Work


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
    """Ours, ours compiled, and TRL, on blocks of text."""
    strategy = {"scratch": "from_scratch", "full": "full_finetune"}.get(job.trains, job.trains)
    words = [
        f"strategy={strategy}", "model=local", f"model.path={work.model}", "data=text",
        "data.test=null", "data.generation.examples=0", "trainer.log_every_n_steps=2",
        "trainer.limit_test_batches=1",
        f"hardware={'cpu' if tiny else 'gpu'}",
    ]  # fmt: skip
    more = [] if job.trains in ("full", "scratch") else ["peft"]
    rival = peer("TRL", "gpu_lm.py", work, "trl", *more)
    if tiny:
        return [side(work, words), rival]
    return [side(work, words), side(work, [*words, "model.compile=true"], "compiled"), rival]


def classes(work: Work, tiny: bool) -> list[Side]:
    where = "hardware=cpu" if tiny else "hardware=gpu"
    return [ours(work, where), peer("HF Trainer", "hf_trainer.py", work)]


def curve(folder: Path) -> Report:
    """Of a run of ours: tokens a second in the later two thirds, and the device's memory."""
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [x["train/tokens_per_second"] for x in lines if "train/tokens_per_second" in x]
    memory = json.loads((folder / "result.json").read_text())["cost"]["peak_memory_mb"]
    found = {"gpu_memory_mb": memory}
    later = rates[len(rates) // 3 :]
    return found | ({"tokens_per_second": statistics.median(later)} if later else {})


def attempt(one: Side, folder: Path) -> Report | None:
    if missing := one.missing():
        print(f"{one.name}: {', '.join(missing)} is not installed, left out")
        return None
    try:
        found = measured(one, folder)
        return found | (curve(folder / "run") if (folder / "run").is_dir() else {})
    except ContestantError as error:
        print(error, file=sys.stderr)
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("outputs/bench/gpu.json"))
    asked = parser.parse_args()
    import torch

    from llmexp.profiling.roof import roof

    if not torch.cuda.is_available() and not asked.tiny:
        print("bench_gpu: this machine has no CUDA GPU that torch can use; --tiny tries the path")
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = roof(device, torch.bfloat16, side=256 if asked.tiny else 8192)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found: dict[str, Any] = {"device": name, "peak_flops": peak, "machine": machine()}
    found["works"] = []
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    for job in JOBS:
        if asked.only and job.name not in asked.only.split(","):
            continue
        for report in measure(job, asked, peak):
            found["works"].append(report)
            asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(job: Job, asked: argparse.Namespace, peak: float) -> list[Report]:
    """Every contestant on one work, one after another."""
    reports = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        written = text(folder)
        encoder = job.shape == "distilbert"
        made = tokenizer(written, encoder)
        model = checkpoint(folder / "model", job.shape, made, asked.tiny)
        length = 64 if asked.tiny else job.max_length
        work = Work(
            task="classification" if encoder else "text", model=str(model), train=str(written),
            test=str(written), trains=job.trains, epochs=1 if encoder else -1,
            steps=-1 if encoder else (6 if asked.tiny else asked.steps), batch_size=job.batch_size,
            max_length=length, learning_rate=1e-4,
        )  # fmt: skip
        if encoder:
            train, test = topics(folder, 48 if asked.tiny else 1378)
            work = replace(work, train=train, test=test)
        sides = classes(work, asked.tiny) if encoder else language(job, work, asked.tiny)
        weights = 0 if encoder else matmul_weights(model)
        for k, one in enumerate(sides):
            report = attempt(one, folder / str(k))
            if report is None:
                continue
            rate = report.get("tokens_per_second", 0.0)
            each = 4 if job.trains in ("lora", "qlora") else 6
            share = each * weights * rate / peak if weights else None
            reports.append({**asdict(job), "who": one.name, "share_of_peak": share, **report})
            memory = report.get("gpu_memory_mb") or 0.0
            print(f"{job.name:20} {one.name:18} {rate:10,.0f} tokens/s {memory:9,.0f} MB "
                  f"{'' if share is None else f'{share:.1%} of the peak'}", flush=True)  # fmt: skip
    return reports


if __name__ == "__main__":
    sys.exit(main())
