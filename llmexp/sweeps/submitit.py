from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from llmexp.configure.allow import named
from llmexp.errors import UserError
from llmexp.sweeps.errand import ALIVE, SIGNAL, Errand
from llmexp.sweeps.launcher import SweepLauncher
from llmexp.sweeps.orphans import runs_in

if TYPE_CHECKING:
    from llmexp.sweeps.job import Job

# They become lines of a batch script.
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:&|-]*")


# In the folder of a job: what the queue calls it.
NUMBER = ".submitit"


class Submitit(SweepLauncher):
    """Jobs through submitit: `executor` is slurm, or local to try it without a cluster.

    Jobs that are in the queue outlive the sweep: started again, it watches those, too.
    """

    def __init__(self, executor: str, n_jobs: int, timeout_min: int, **resources: Any):
        super().__init__(n_jobs)
        self.executor = executor
        self.asked = {"timeout_min": timeout_min, **resources}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.queue: Any = None

    def found(self, job: Job) -> Submitted | None:
        number = job.folder / NUMBER
        before = number.read_text(encoding="utf-8") if number.is_file() else ""
        if not before:
            return None
        there = self._opened().job_class(folder=self._folder(), job_id=before)
        if hasattr(there, "_process"):
            # On this machine submitit knows the jobs of its own process only.
            there._process = Left(int(before), self._folder())
        return None if there.done() else Submitted(there, job.folder)

    def start(self, job: Job, slot: int) -> Submitted:
        """Put the job into the queue."""
        for name in (ALIVE, SIGNAL):
            (job.folder / name).unlink(missing_ok=True)
        made = self._opened().submit(Errand(str(job.folder.resolve())))
        (job.folder / NUMBER).write_text(made.job_id, encoding="utf-8")
        return Submitted(made, job.folder)

    def _folder(self) -> Path:
        return self.folder.resolve() / ".submitit"

    def _opened(self) -> Any:
        if self.queue is None:
            self.queue = self._open()
        return self.queue

    def _open(self) -> Any:
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise UserError(
                "hydra/launcher: needs submitit, which is missing; pip install 'llmexp[slurm]'"
            ) from error
        texts = {k: v for k, v in self.asked.items() if isinstance(v, str)}
        for key, value in texts.items():
            if not WORD.fullmatch(value):
                raise UserError(f"hydra.launcher.{key}: {value!r} is not a plain word")
        for key, name, value in named(self.asked, "hydra.launcher"):
            inside = value if isinstance(value, list) else [value]
            if not all(str(text).isprintable() for text in [name, *inside]):
                raise UserError(f"{key}: holds a line break or another control character")
        try:
            auto = submitit.AutoExecutor(folder=self._folder(), cluster=self.executor)
        except RuntimeError as error:
            raise UserError(f"hydra.launcher.executor: {error}") from error
        given = {k: v for k, v in self.asked.items() if v is not None}
        own = ("timeout_min", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb")
        by_name = {k if k in own else f"slurm_{k}": v for k, v in given.items()}
        auto.update_parameters(name="llmexp", stderr_to_stdout=True, **by_name)
        return auto._executor


class Left:
    """The process that minds a job on this machine, when the sweep that started it was killed."""

    def __init__(self, pid: int, folder: Path):
        self.pid = pid
        self.folder = folder

    def poll(self) -> int | None:
        return None if runs_in(self.pid, self.folder) else 0

    def send_signal(self, number: int) -> None:
        if runs_in(self.pid, self.folder):
            os.kill(self.pid, number)


class Submitted:
    """A job in the queue or on a node."""

    pid: int | None = None

    def __init__(self, handle: Any, folder: Path):
        self.handle = handle
        self.folder = folder

    def poll(self) -> int | None:
        if not self.handle.done():
            return None
        import submitit

        try:
            codes = [int(code) for code in self.handle.results()]
        except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError):
            return 1
        return next((code for code in codes if code != 0), 0)

    def send_signal(self, number: int) -> None:
        """Through a file: a queue would end the job after half a minute, saved or not."""
        (self.folder / SIGNAL).write_text(str(int(number)), encoding="utf-8")
        if not (self.folder / ALIVE).exists():
            self.handle.cancel(check=False)
