"""What W&B keeps of an online run: the data it read, the model it made, the files it left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.metrics import lower_is_better

if TYPE_CHECKING:
    import wandb

FILES = ("config.yaml", "provenance.json", "result.json", "metrics.jsonl", "predictions.jsonl")
BEST, LATEST = "best", "latest"


def publish(run: wandb.Run, folder: Path, result: dict[str, Any], objective: str) -> None:
    """Data in, model and files out: lineage from the rows to the weights."""
    run.use_artifact(data(folder, result))
    if (folder / "model").is_dir():
        made = model(folder, result, objective)
        run.log_artifact(made, aliases=aliases(made.metadata, earlier(run, made.name)))
    run.log_artifact(files(folder, run.id))


def data(folder: Path, result: dict[str, Any]) -> wandb.Artifact:
    """Which rows these were: where they came from and their fingerprints, never the rows."""
    import wandb

    from llmexp.jobs.job import read_config

    tree, _ = read_config(folder)
    sources = {name: tree["data"].get(name) for name in ("train", "validation", "test")}
    facts = {"fingerprint": result.get("fingerprint", {}), "sources": sources}
    facts["examples"] = result["examples"]
    artifact = wandb.Artifact(f"data-{result['data']}", type="dataset", metadata=facts)
    with artifact.new_file("data.json", encoding="utf-8") as file:
        file.write(json.dumps(facts, indent=2))
    return artifact


def model(folder: Path, result: dict[str, Any], objective: str) -> wandb.Artifact:
    """The exported folder, under the name of its experiment: runs of it are its versions."""
    import wandb

    facts = {"metrics": result["metrics"], "seed": result["seed"], "objective": objective}
    artifact = wandb.Artifact(f"model-{result['name']}", type="model", metadata=facts)
    # The folder stays: nothing of it is copied to where uploads are staged.
    artifact.add_dir(str(folder / "model"), policy="immutable")
    return artifact


def files(folder: Path, run_id: str) -> wandb.Artifact:
    """The run's small files."""
    import wandb

    artifact = wandb.Artifact(f"run-{run_id}", type="run")
    for name in FILES:
        if (folder / name).is_file():
            artifact.add_file(str(folder / name), name=name)
    return artifact


def earlier(run: wandb.Run, name: str) -> dict[str, Any] | None:
    """What is known of the best version so far; None where there is none."""
    import wandb

    path = f"{run.entity}/{run.project}/{name}:{BEST}"
    try:
        return dict(wandb.Api().artifact(path, type="model").metadata)
    except (wandb.Error, ValueError):
        return None


def aliases(mine: dict[str, Any], best: dict[str, Any] | None) -> list[str]:
    """`latest`; `best` too where no version has a better objective."""
    name = mine["objective"]
    value = mine["metrics"].get(name)
    other = None if best is None else best.get("metrics", {}).get(name)
    if value is None:
        return [LATEST]
    wins = other is None or (value < other if lower_is_better(name) else value > other)
    return [LATEST, BEST] if wins else [LATEST]
