"""Whole runs on tiny checkpoints, in this process: compose, check, train, test, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import OmegaConf

from llmexp.configure.compose import compose_jobs
from llmexp.configure.composed import Composed
from llmexp.configure.preflight import build
from llmexp.jobs.job import prepare, read_config
from llmexp.run import run
from tests import tiny

LABELS = ("bad", "fine", "good")
COMMON = ["tracking=none", "hardware=cpu", "trainer.max_epochs=1"]


def rows(path: Path, count: int) -> Path:
    """A jsonl file of texts in three classes, of lengths from short to longer than any limit."""
    words = " ".join(tiny.TEXTS).split()
    lines = [
        {"text": " ".join(words[i % 7 :][: 3 + 5 * (i % 6)]), "label": LABELS[i % 3]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def classified(folder: Path) -> list[str]:
    """Overrides that pose a small classification task; files are made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    given = [f"data.{name}={rows(folder / f'{name}.jsonl', 24)}" for name in ("train", "test")]
    return ["data=classification", *given, "data.validation_fraction=0.3", "data.batch_size=8"]


def answered(folder: Path) -> list[str]:
    """Overrides that pose a small instruction task."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"prompt": tiny.TEXTS[i % 3], "completion": LABELS[i % 3]} for i in range(12)]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = [f"data.train={file}", f"data.test={file}", "data.validation_fraction=0.3"]
    short = ["data.generation.max_new_tokens=6", "data.generation.examples=3"]
    return ["data=instruction", *given, *short, "data.max_length=96", "data.batch_size=4"]


def written(folder: Path) -> list[str]:
    """Overrides that pose a small language-modeling task."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("\n".join(tiny.TEXTS * 6))
    given = [f"data.train={folder / 'text.txt'}", "data.max_length=32", "data.batch_size=4"]
    return ["data=text", *given, "data.generation.max_new_tokens=6", "data.generation.examples=2"]


def finished(folder: Path, *overrides: str) -> dict[str, Any]:
    """The result of a run that was carried out in `folder`."""
    given = {line.partition("=")[0] for line in overrides}
    lines = [*(o for o in COMMON if o.partition("=")[0] not in given), *overrides]
    (job,) = compose_jobs(lines, "run", None, False)
    folder.mkdir(parents=True)
    launch = {"overrides": lines, "sweep": False}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({**job.tree, "launch": launch}))
    return run(build(job.tree), folder)


def begun(composed: Composed, folder: Path | None = None) -> Path:
    """The folder of a run as the command leaves it to the job: made by Hydra, then prepared."""
    # One tree, as Hydra has it: its folders are named by keys of ours.
    node = OmegaConf.create({**composed.tree, "hydra": composed.hydra}).hydra
    if folder is None:
        folder = Path(node.run.dir)
        folder.mkdir(parents=True)
    node.runtime.output_dir, node.runtime.config_sources = str(folder), []
    node.mode = RunMode.RUN
    return prepare(OmegaConf.create(composed.tree), node)


def resumed(folder: Path) -> dict[str, Any]:
    """The result of the run in `folder`, taken up by this process."""
    tree, _ = read_config(folder)
    return run(build({**tree, "resume": "auto"}), folder)


def predictions(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
