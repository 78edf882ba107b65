"""Weights & Biases: one W&B run for each job, online when logged in, else offline."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.config import NonNegativeInt, spec
from llmexp.errors import UserError
from llmexp.jobs.job import read_config
from llmexp.jobs.launch import is_first
from llmexp.jobs.results import write_atomic
from llmexp.secrets import hidden, masked
from llmexp.tracking.artifacts import publish
from llmexp.tracking.base import Tracking, numbers
from llmexp.tracking.login import why_offline
from llmexp.tracking.media import tables

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import wandb

    from llmexp.configure.preflight import Experiment
    from llmexp.context import Context

# Seconds that W&B may keep a run waiting when it starts, and when it ends.
START, END = 15, 300


@spec
class Wandb(Tracking):
    """The composed config, the keys of `result.json`, curves, a confusion matrix, answers."""

    project: str
    entity: str | None
    required: bool
    """True: a run that cannot be tracked online does not start."""
    table_rows: NonNegativeInt
    """Answers shown in the table; all of them are in `predictions.jsonl`."""
    samples: NonNegativeInt
    """Answers to validation rows that are written after each validation, to read the progress."""
    artifact: bool
    """Keep data, model and files of the run as artifacts when online."""

    def check(self) -> list[str]:
        named = {"project": self.project, "entity": self.entity or ""}
        found = [
            f"tracking.{key}: holds a secret, and W&B shows it; give it a name of its own"
            for key, name in named.items()
            if hidden(name) != name
        ]
        if self.required and (why := why_offline()):
            said = f"W&B is offline here ({why}); wandb login, or tracking=none"
            found.append(f"tracking.required: {said}")
        return found

    def unread(self) -> dict[str, str]:
        return {} if self.artifact else {"objective": "tracking.artifact=false: no best is marked"}

    def logger(self, experiment: Experiment, context: Context) -> Any:
        from pytorch_lightning.loggers import WandbLogger

        if not is_first():
            return WandbLogger(project=self.project, save_dir=context.folder)
        from wandb.sdk.lib.import_hooks import unregister_all_post_import_hooks

        from llmexp.tracking.wandb_logger import Tolerant

        run = self._open(self._settings(experiment, context.folder), context.folder)
        if run is None:
            return False
        # It would tell its process of later imports, which fail where that one is gone.
        unregister_all_post_import_hooks()
        with told():
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return Tolerant(run, context.folder)

    def callbacks(self, folder: Path) -> list[pl.Callback]:
        from llmexp.callbacks.samples import Samples

        found: list[pl.Callback] = [Samples(folder, self.samples)] if self.samples else []
        return [*found, *Tracking.callbacks(self, folder)]

    def known(self) -> int:
        """A run that is resumed online has the steps that were sent."""
        import wandb

        if wandb.run is not None:
            with told():
                return int(wandb.run.summary.get("trainer/global_step", -1))
        return -1

    def _settings(self, e: Experiment, folder: Path) -> dict[str, Any]:
        """What W&B is told about this job."""
        tree, launch = read_config(folder)
        choices = e.config.choices
        # The experiment holds what its variables hold: a file may put a secret anywhere in it.
        shown: dict[str, Any] = masked(
            {
                "project": self.project,
                "entity": self.entity,
                "name": e.config.name,
                "group": folder.parent.name if launch["sweep"] else None,
                "job_type": choices.strategy,
                "tags": [*e.config.tags, choices.strategy, choices.model, choices.data],
            }
        )
        own = {"id": run_id(folder), "resume": "allow", "dir": str(folder)}
        return shown | own | {"config": masked(tree)}

    def _open(self, settings: dict[str, Any], folder: Path) -> wandb.Run | None:
        """Open the run online, else offline, else say in one line that nobody watches."""
        import wandb

        # Tables and artifacts are staged there; a run writes into its folder alone.
        os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
        # A process that used W&B before it started this one leaves the address of its service. A
        # run in that service cannot be given up, and its id is taken when the run is killed.
        os.environ.pop("WANDB_SERVICE", None)
        limits = {"init_timeout": START, "login_timeout": START, "finish_timeout": END}
        quiet = wandb.Settings(silent=True, console="off", symlink=False, **limits)
        why = why_offline()
        for mode in ("online", "offline") if why is None else ("offline",):
            try:
                run = wandb.init(**settings, mode=mode, settings=quiet, reinit="finish_previous")
            except Exception as error:
                why = first_line(error)
                # W&B's process holds the run's id until then; where it failed, W&B exits for it.
                with suppress(SystemExit):
                    wandb.teardown()
                continue
            if mode == "online":
                print(f"W&B: {run.url}", flush=True)
            else:
                print(f"W&B is offline ({why}); this run is kept here", flush=True)
                print(commands(run), flush=True)
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
        with told():
            if module is not None:
                run.log(tables(module, self.table_rows))
            run.summary.update(summary(result))
            folder = Path(run.dir).parents[2]
            if self.artifact and module is not None and not run.offline:
                publish(run, folder, result, read_config(folder)[0]["objective"])
        with told(last=True):
            run.finish(exit_code=0 if result["status"] == "completed" else 1)
        if run.offline:
            print(f"W&B was offline\n{commands(run)}", flush=True)


@contextmanager
def told(last: bool = False) -> Iterator[None]:
    """An error of W&B is a line: what a run found is in its folder all the same.

    What its service and its network raise has no class in common but `Exception`. `last`: nothing
    follows, so that after an error this process has no more to do with W&B.
    """
    try:
        yield
    except Exception as error:
        print(f"W&B: {first_line(error)}; all of it is in the run's folder", flush=True)
        if last or isinstance(error, ConnectionError):
            leave()


def leave() -> None:
    """W&B's process is gone: this one forgets it, and does not look for it when it exits."""
    import wandb
    from wandb.sdk.lib.module import unset_globals

    with suppress(Exception, SystemExit):
        wandb.teardown()
    unset_globals()


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def commands(run: wandb.Run) -> str:
    """What to type for an offline run, from where this process was started."""
    where = shlex.quote(os.path.relpath(Path(run.dir).parent))
    return f"  send it:         wandb sync {where}\n  look at it here: wandb leet run {where}"


def run_id(folder: Path) -> str:
    """The W&B id of this run folder; a resumed run keeps it."""
    path = folder / "wandb" / "id"
    # A run that is killed while it writes its id leaves an empty file.
    known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if not known:
        known = secrets.token_hex(4)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, known)
    return known


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The last word of a run: its numbers, and how it ended."""
    ended = {"status": result["status"], "reason": result["reason"]}
    told: dict[str, Any] = masked({k: value for k, value in ended.items() if value is not None})
    return numbers(result) | told
