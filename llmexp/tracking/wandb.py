"""Weights & Biases: one W&B run for each job, online when logged in, else offline."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.config import NonNegativeInt, spec
from llmexp.errors import UserError
from llmexp.jobs.job import read_config
from llmexp.jobs.launch import is_first
from llmexp.secrets import masked
from llmexp.tracking.base import Tracking
from llmexp.tracking.login import why_offline

if TYPE_CHECKING:
    import wandb

    from llmexp.configure.preflight import Experiment
    from llmexp.context import Context

# Longer texts make a table that no browser opens.
TEXT_LENGTH = 1000
FILES = ("config.yaml", "provenance.json", "result.json", "metrics.jsonl", "predictions.jsonl")


@spec
class Wandb(Tracking):
    """The composed config, the keys of `result.json`, curves, a confusion matrix, answers."""

    project: str
    entity: str | None
    required: bool
    """True: a run that cannot be tracked online does not start."""
    table_rows: NonNegativeInt
    """Answers shown in the table; all of them are in `predictions.jsonl`."""
    artifact: bool
    """Upload the run's files when online."""

    def check(self) -> list[str]:
        why = why_offline() if self.required else None
        if why is None:
            return []
        return [f"tracking.required: W&B is offline here ({why}); wandb login, or tracking=none"]

    def logger(self, experiment: Experiment, context: Context) -> Any:
        from pytorch_lightning.loggers import WandbLogger

        if not is_first():
            return WandbLogger(project=self.project, save_dir=context.folder)
        run = self._open(self._settings(experiment, context.folder), context.folder)
        if run is None:
            return False
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run, save_dir=context.folder)

    def _settings(self, e: Experiment, folder: Path) -> dict[str, Any]:
        """What W&B is told about this job."""
        tree, launch = read_config(folder)
        choices = e.config.choices
        return {
            "project": self.project,
            "entity": self.entity,
            "name": e.config.name,
            "id": run_id(folder),
            "resume": "allow",
            "group": folder.parent.name if launch["sweep"] else None,
            "job_type": choices.strategy,
            "tags": [*e.config.tags, choices.strategy, choices.model, choices.data],
            "config": masked(tree),
            "dir": str(folder),
        }

    def _open(self, settings: dict[str, Any], folder: Path) -> wandb.Run | None:
        """Open the run online, else offline, else say in one line that nobody watches."""
        import wandb

        # Tables and artifacts are staged there; a run writes into its folder alone.
        os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
        quiet = wandb.Settings(silent=True, console="off", symlink=False, init_timeout=30)
        why = why_offline()
        for mode in ("online", "offline") if why is None else ("offline",):
            try:
                run = wandb.init(**settings, mode=mode, settings=quiet, reinit="finish_previous")
            except (wandb.Error, OSError) as error:
                why = str(error).splitlines()[0]
                continue
            if mode == "online":
                print(f"W&B: {run.url}", flush=True)
            else:
                where = os.path.relpath(Path(run.dir).parent)
                print(f"W&B is offline ({why}); send it later: wandb sync {where}", flush=True)
            return run
        if self.required:
            raise UserError(f"tracking.required: W&B did not start: {why}")
        print(f"W&B did not start ({why}); metrics.jsonl is written all the same", flush=True)
        return None

    def finish(self, result: dict[str, Any], module: Any | None) -> None:
        import wandb

        run = wandb.run
        if run is None:
            return
        try:
            if module is not None:
                run.log(tables(module, self.table_rows))
            run.summary.update(summary(result))
            if self.artifact and not run.offline:
                run.log_artifact(files(run, Path(run.dir).parents[2]))
        except (wandb.Error, OSError) as error:
            print(f"W&B: {str(error).splitlines()[0]}", flush=True)
        run.finish(exit_code=0 if result["status"] == "completed" else 1)


def run_id(folder: Path) -> str:
    """The W&B id of this run folder; a resumed run keeps it."""
    path = folder / "wandb" / "id"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `result.json`: metrics under the same keys, the rest under their group."""
    flat = dict(result["metrics"])
    for group in ("baseline", "cost", "examples"):
        flat |= {f"{group}/{key}": value for key, value in result[group].items()}
    flat |= {"status": result["status"], "reason": result["reason"]}
    told: dict[str, Any] = masked({k: value for k, value in flat.items() if value is not None})
    return told


def tables(module: Any, rows: int) -> dict[str, Any]:
    """The answers as a table, and how labels are confused where there are labels."""
    import wandb

    answers, labels = module.answers, module.labels
    shown: dict[str, Any] = {}
    if labels and all(a["reference"] in labels for a in answers):
        number = {name: i for i, name in enumerate(labels)}
        shown["test/confusion_matrix"] = wandb.plot.confusion_matrix(
            y_true=[number[a["reference"]] for a in answers],
            preds=[number[a["prediction"]] for a in answers],
            class_names=labels,
        )
    if answers and rows > 0:
        columns = list(dict.fromkeys(key for a in answers[:rows] for key in a))
        data = [[_cell(a.get(key)) for key in columns] for a in answers[:rows]]
        shown["test/predictions"] = wandb.Table(columns=columns, data=data)
    return shown


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    return masked(str(value))[:TEXT_LENGTH]


def files(run: wandb.Run, folder: Path) -> wandb.Artifact:
    """What the run left, without the checkpoints."""
    import wandb

    artifact = wandb.Artifact(f"run-{run.id}", type="run")
    for name in FILES:
        if (folder / name).is_file():
            artifact.add_file(str(folder / name), name=name)
    if (folder / "model").is_dir():
        artifact.add_dir(str(folder / "model"), name="model")
    return artifact
