from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from llmexp.jobs.events import whole_lines
from llmexp.jobs.results import write_atomic
from llmexp.secrets import leaves_hidden
from llmexp.tasks.base import Row
from llmexp.tracking.media import cells, scored


class Samples(pl.Callback):
    """What the network writes to the same few validation rows after each validation of a training.

    They go into `samples.jsonl` and, under `val/samples`, to every logger that keeps tables.
    """

    def __init__(self, folder: Path, rows: int):
        self.path = folder / "samples.jsonl"
        self.rows = rows
        self.written_at = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What a run wrote after the step from which it goes on will be written again."""
        if trainer.is_global_zero and self.path.is_file():
            lines = whole_lines(self.path)
            kept = [line for line in lines if json.loads(line)["step"] <= trainer.global_step]
            write_atomic(self.path, "".join(f"{line}\n" for line in kept))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """The network is in eval mode here, and writing leaves the run's random numbers alone."""
        # Sharded weights are gathered by all processes in step, and only the first one is here.
        sharded = hasattr(pl_module.net, "unshard")
        judged = trainer.state.fn == "fit" and self.written_at != trainer.global_step
        if sharded or not judged or not trainer.is_global_zero or trainer.sanity_checking:
            return
        context = pl_module.context
        rows = context.examples.validation[: min(self.rows, context.task.samples())]
        if not rows:
            return
        self.written_at = trainer.global_step
        with pl_module.writing():
            answers = context.task.written(pl_module.net, rows, context.tokenizer)
        known = [leaves_hidden(scored(answer, context.task)) for answer in answers]
        found = [{"step": trainer.global_step, "index": i, **row} for i, row in enumerate(known)]
        self._keep(found)
        columns, data = cells(found)
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                logger.log_table("val/samples", columns, data, step=None)

    def _keep(self, found: list[Row]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
