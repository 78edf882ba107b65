"""What a run writes about itself while it goes: provenance, data, cost, result."""

from __future__ import annotations

import json
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.checkpoints.generations import Generations
from llmexp.jobs import changes
from llmexp.jobs.job import read_config
from llmexp.jobs.launch import is_first
from llmexp.jobs.lives import Lives
from llmexp.jobs.price import charged_seconds
from llmexp.jobs.provenance import provenance
from llmexp.jobs.results import (
    begun,
    forget_room,
    read_object,
    reserve,
    write_atomic,
    write_result,
    written,
)
from llmexp.jobs.signals import Signals

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from llmexp.configure.preflight import Experiment
    from llmexp.jobs.ranks import Ranks
    from llmexp.tasks.base import Examples


class Record:
    """The growing `result.json` of one run; only rank 0 writes."""

    def __init__(self, experiment: Experiment, folder: Path, signals: Signals | None = None):
        self.folder = folder
        self.writes = is_first()
        self.ranks: Ranks | None = None
        """The other processes on this node, where this one started them."""
        self.tracking = experiment.tracking
        self.signals = signals or Signals()
        self.module: Any | None = None
        """The tested module, once there is one."""
        config = experiment.config
        self.config = config
        self.lives = Lives(folder, resumes=config.resume == "auto")
        tree, launch = read_config(folder)
        self.overrides = launch["overrides"]
        self.cost: dict[str, Any] = {
            "fit_seconds": 0.0,
            "first_step_seconds": None,
            "total_seconds": 0.0,
            "lost_seconds": self.lives.lost(),
            "prefix_seconds": 0.0,
            "spared_seconds": 0.0,
            "cache_hit": False,
            "tokens_trained": 0,
            "tokens_per_second": 0.0,
            "peak_memory_mb": 0.0,
            "trainable_parameters": 0,
            "total_parameters": 0,
            "estimated_flops": 0.0,
            "money": None,
            "energy_kwh": None,
        }
        self.result: dict[str, Any] = {
            **begun(folder, tree, self.overrides, launch["options"]),
            "started": self.lives.started,
            "task": experiment.task.kind,
            "baseline": {},
            "cost": self.cost,
            "examples": {},
            "remote_code": experiment.model.remote_code(),
        }
        self.task = experiment.task
        self.provenance: dict[str, Any] = {}

    def start(self) -> None:
        """From here on the folder says what happens in it."""
        code = {"remote_code": self.result["remote_code"]}
        before = read_object(self.folder / "provenance.json") if self.checkpoint else {}
        self.provenance = provenance(self.overrides) | code | {"data": before.get("data", {})}
        if self.writes:
            reserve(self.folder)
        self.write()

    def data(self, examples: Examples) -> None:
        """What was read, and what a constant answer would score on it."""
        if before := self.provenance["data"]:
            changes.refuse_inputs(self.folder, before, examples.fingerprint)
        counts = examples.counts()
        self.result["examples"] = {
            "train": counts["train"],
            "val": counts["validation"],
            "test": counts["test"],
            "bad": examples.bad,
        }
        self.result["fingerprint"] = examples.fingerprint
        # Filled when the splits are tokenised.
        self.result["encoding"] = examples.encoding
        self.result["notes"] = examples.notes
        self.result["baseline"] = self.task.baseline(examples)
        self.provenance["data"] = examples.fingerprint
        self.write()

    def write(self) -> None:
        if self.writes:
            write_atomic(self.folder / "provenance.json", written(self.provenance))
            write_result(self.folder, self.result)

    def parameters(self, net: Any) -> None:
        """Count what is trained; a 4-bit weight packs two values into one byte."""
        sizes = [(count(p), p.requires_grad) for p in net.parameters()]
        self.cost["trainable_parameters"] = sum(n for n, trained in sizes if trained)
        self.cost["total_parameters"] = sum(n for n, _ in sizes)

    @cached_property
    def checkpoint(self) -> str | None:
        """The newest whole checkpoint of this folder where `resume=auto` and there is one."""
        if self.config.resume != "auto":
            return None
        path, notes = Generations(self.folder / "checkpoints").to_resume()
        if path is None:
            return None
        for note in notes if self.writes else ():
            print(f"{note}: going on from checkpoints/{path.name}", flush=True)
        return str(path)

    def finish(self, module: Any, data: Any, trainer: pl.Trainer) -> None:
        """Test metrics, answers, and the price of them."""
        from llmexp.jobs.price import estimated_flops

        self.module = module
        self.result["metrics"] |= module.validation_metrics | module.test_metrics
        prefix = getattr(data, "prefix", None)
        if prefix is not None:
            self.cost["prefix_seconds"] = round(prefix.seconds, 3)
            first = self.lives.spared_seconds
            self.cost["spared_seconds"] = round(prefix.spared if first is None else first, 3)
            self.cost["cache_hit"] = prefix.hit
        self.cost["estimated_flops"] = estimated_flops(module, data, self.cost["tokens_trained"])
        seconds = self.cost["fit_seconds"]
        self.cost["tokens_per_second"] = self.cost["tokens_trained"] / seconds if seconds else 0.0
        if trainer.is_global_zero:
            lines = [json.dumps(a, ensure_ascii=False) for a in module.answers]
            write_atomic(self.folder / "predictions.jsonl", "\n".join(lines) + "\n")
            if module.losses:
                lines = [json.dumps(row) for row in module.losses]
                write_atomic(self.folder / "losses.jsonl", "\n".join(lines) + "\n")

    def fail(self, error: Exception | None) -> None:
        """An error nobody planned for; that of a lost process says more than its echo here."""
        lost = self.ranks.lost(wait=15.0) if self.ranks is not None else None
        self.close(*(lost or ("failed", f"{type(error).__name__}: {error}")))

    def complete(self) -> None:
        self.close("completed", None)

    def close(self, status: str, reason: str | None) -> None:
        """Write the final state of the run, whatever it is, also on a full disk."""
        self.cost["total_seconds"] = self.lives.seconds()
        self.cost["lost_seconds"] = self.lives.lost()
        self.cost |= self.config.cost.priced(charged_seconds(self.cost))
        self.result |= {"status": status, "reason": reason, "ended": time.time()}
        if self.ranks is not None and status == "completed":
            self.ranks.forget()
        if not self.writes:
            return
        write_result(self.folder, self.result)
        forget_room(self.folder)
        # How the run ended is written; a tracker, which may be anybody's class, changes it no more.
        try:
            self.tracking.finish(self.result, self.module)
        except Exception as error:
            print(
                f"the tracker could not write its end: {type(error).__name__}: {error}", flush=True
            )


def count(parameter: Any) -> int:
    """Values a parameter holds, also where bitsandbytes packed them."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())
