"""What Hydra calls to run the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from llmexp.sweeps.board import Board

if TYPE_CHECKING:
    from llmexp.sweeps.job import Job
    from llmexp.sweeps.pool import Process


class SweepLauncher(Launcher):
    """Runs jobs `n_jobs` at a time, each in a process that `start` makes."""

    def __init__(self, n_jobs: int = 1):
        self.n_jobs = n_jobs
        self.stopped = 0
        """The signal that ended an earlier batch, or 0."""

    def found(self, job: Job) -> Process | None:
        """None: what a process starts on its own machine ends when it is gone."""
        return None

    def start(self, job: Job, slot: int) -> Process:
        raise NotImplementedError

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context = hydra_context
        self.config = config
        self.folder = Path(str(config.hydra.sweep.dir))
        self.board = Board(self.folder)

    def compose(self, overrides: Sequence[str], number: int) -> Job:
        """The job that these overrides make."""
        from llmexp.sweeps.job import Job

        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        return Job(config, self.folder)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs of a grid; one that is complete already is left as it is."""
        from llmexp.sweeps.pool import Pool

        setup_globals()
        # Hydra's sweeper leaves the whole config there; sweep.json says what there is to say.
        (self.folder / "multirun.yaml").unlink(missing_ok=True)
        composed = [self.compose(line, initial_job_idx + i) for i, line in enumerate(job_overrides)]
        jobs = {job.entry.name: job for job in composed}
        self.board.plan(jobs.values())
        if not self.stopped:
            self.stopped = Pool(self.board, self).run(iter(jobs.values()))
        return [outcome(job) for job in composed]


def outcome(job: Job) -> JobReturn:
    """What a sweeper gets to know; a failed job is an outcome, not an error."""
    return JobReturn(
        overrides=job.entry.overrides,
        cfg=job.config,
        working_dir=str(job.folder),
        status=JobStatus.COMPLETED,
        _return_value=job.objective,
    )
