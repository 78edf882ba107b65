"""`+sweep=optuna`: jobs whose overrides a study proposes, instead of a grid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from llmexp.errors import UserError
from llmexp.sweeps.launcher import SweepLauncher, outcome
from llmexp.sweeps.settings import Settings, fixed_and_swept, lines, space_of

if TYPE_CHECKING:
    from llmexp.sweeps.job import Job
    from llmexp.sweeps.trials import Trials


class Search(Sweeper):
    """Asks a study for trials until there are `n_trials`, over all starts of the search."""

    def __init__(self, **_: Any):
        """The settings are read in `setup`, where the whole config resolves them."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        node: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        self.settings = Settings(**{k: v for k, v in node.items() if k != "_target_"})
        self.folder = Path(str(config.hydra.sweep.dir))
        self.loader = hydra_context.config_loader
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        assert isinstance(launcher, SweepLauncher)  # checked before Hydra started
        self.runner = launcher
        self.done: list[Job] = []

    def sweep(self, arguments: list[str]) -> Any:
        """Run the trials that are left."""
        try:
            return self._sweep(arguments)
        except UserError as error:  # Hydra would show it as a trace
            self.runner.board.tell(refused={"pid": os.getpid(), "why": str(error)})
            return []

    def _sweep(self, arguments: list[str]) -> list[JobReturn]:
        from llmexp.sweeps.pool import Pool
        from llmexp.sweeps.trials import Trials

        setup_globals()
        overrides = OverridesParser.create(self.loader).parse_overrides(arguments)
        fixed, _ = fixed_and_swept(overrides)
        self.trials = Trials(self.folder, self.settings, space_of(self.settings, overrides))
        self.runner.board.recall()
        if note := self.settings.note():
            print(note, flush=True)
        pool = Pool(self.runner.board, self.runner)
        pool.run(self._jobs(fixed, self.trials), self._ended, self.trials.verdict)
        return [outcome(job) for job in self.done]

    def _jobs(self, fixed: list[str], trials: Trials) -> Iterator[Job]:
        for number, values in trials.open():
            job = self.runner.compose(lines(fixed, values), number)
            trials.expect(job, number)
            self.runner.board.plan([job])
            yield job

    def _ended(self, job: Job) -> None:
        self.trials.tell(job)
        self.runner.board.put(job.entry)
        self.runner.board.tell(best=self.trials.best())
        self.done.append(job)
