"""The trials of a search: Optuna's study, kept in the folder of the sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from llmexp.errors import UserError
from llmexp.jobs.events import whole_lines
from llmexp.jobs.price import charged_seconds
from llmexp.jobs.results import read_result
from llmexp.sweeps.journal import FILE
from llmexp.sweeps.settings import Settings
from llmexp.sweeps.space import Space

if TYPE_CHECKING:
    from llmexp.sweeps.job import Job

# What would end the same way again; any other failure leaves its trial open for the next start.
FINAL = ("diverged", "out_of_memory")


class Trials:
    """Proposes the overrides of trials, hears how they went, and never makes one too many."""

    def __init__(self, folder: Path, settings: Settings, space: Space):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.settings = settings
        self.space = space
        self.folder = folder
        self.of_job: dict[str, optuna.Trial] = {}
        self.seen: dict[int, int] = {}
        """Validations of a trial that were judged already."""
        self.held: dict[int, FileLock] = {}
        """What this worker has taken; until it ends, though the trial may fail before."""
        self.judged = len(settings.objectives) == 1 and settings.prune
        self.study = optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(folder / FILE))),
            directions=list(settings.objectives.values()),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=settings.startup_trials),
            load_if_exists=True,
        )
        with self._alone():
            self._same_question()

    def _same_question(self) -> None:
        """A study answers one question; another needs a folder of its own."""
        asked = {key: repr(found) for key, found in self.space.items()}
        asked |= self.settings.objectives
        before = self.study.user_attrs.get("asked")
        if before is not None and before != asked:
            other = sorted(k for k in asked | before if asked.get(k) != before.get(k))
            raise UserError(
                f"{self.folder} holds a search that was begun with another {', '.join(other)}; "
                "give another hydra.sweep.dir"
            )
        if before is None:
            self.study.set_user_attr("asked", asked)

    def open(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Number and overrides of each trial that is to run, until none is left for this worker."""
        while (trial := self._next()) is not None:
            yield self._opened(trial)

    def _next(self) -> optuna.Trial | None:
        """A trial that was begun and that nobody works on, else a new one; None at `n_trials`."""
        with self._alone():
            for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if self._hold(frozen.number):
                    self.seen[frozen.number] = len(frozen.intermediate_values)
                    return optuna.Trial(self.study, frozen._trial_id)
            count = len(self.study.get_trials(deepcopy=False))
            if count >= self.settings.n_trials:
                return None
            # By its number, so that a search that was cut off proposes what it would have.
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.settings.seed + count, n_startup_trials=self.settings.startup_trials
            )
            trial = self.study.ask({key: found.distribution() for key, found in self.space.items()})
            self._hold(trial.number)
            return trial

    def _alone(self) -> FileLock:
        """Workers take trials one after the other: none twice, and none too many."""
        return FileLock(self.folder / ".study.lock")

    def _hold(self, number: int) -> bool:
        """Take a trial, until this process ends; False where a worker, this one too, has it."""
        if number in self.held:
            return False
        folder = self.folder / ".trials"
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / f"{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self.held[number] = lock
        return True

    def _opened(self, trial: optuna.Trial) -> tuple[int, dict[str, str]]:
        self.latest = trial
        return trial.number, {key: self.space[key].text(v) for key, v in trial.params.items()}

    def expect(self, job: Job, number: int) -> None:
        """This job runs the trial that was opened last."""
        assert self.latest.number == number
        self.of_job[job.entry.name] = self.latest
        self.latest.set_user_attr("job", job.entry.name)

    def verdict(self, job: Job) -> str | None:
        """Why a running trial is not worth going on with; None while it is."""
        if not self.judged:
            return None
        trial, (key,) = self.of_job[job.entry.name], self.settings.objectives
        seen = self.seen.get(trial.number, 0)
        for step, value in list(enumerate(validations(job.folder, key)))[seen:]:
            trial.report(value, step)
            self.seen[trial.number] = step + 1
            if trial.should_prune():
                return f"{key} {value:.4g} at validation {step + 1}: worse than the median"
        return None

    def tell(self, job: Job) -> None:
        """What became of a trial; one that failed without being wrong stays open."""
        trial, status = self.of_job[job.entry.name], job.entry.status
        if status == "completed":
            values = self._values(job)
            if values is not None:
                self.study.tell(trial, values)
        elif status == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        elif status in FINAL:
            self.study.tell(trial, state=TrialState.FAIL)

    def _values(self, job: Job) -> list[float] | None:
        """The objectives of a completed job; it failed where one is missing."""
        known = numbers(read_result(job.folder))
        missing = [key for key in self.settings.objectives if key not in known]
        if missing:
            job.entry.status = "failed"
            job.entry.reason = (
                f"hydra.sweeper: its result has no {', '.join(missing)}; it has "
                f"{', '.join(sorted(known))}"
            )
            return None
        return [known[key] for key in self.settings.objectives]

    def best(self) -> list[dict[str, Any]]:
        """The best trial; with several objectives those that no other beats in all of them."""
        return [
            {
                "name": trial.user_attrs["job"],
                "values": dict(zip(self.settings.objectives, trial.values, strict=True)),
                "overrides": [f"{k}={self.space[k].text(v)}" for k, v in trial.params.items()],
            }
            for trial in self.study.best_trials
        ]


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Everything in a result that can be an objective, by its key."""
    found = dict(result.get("metrics", {}))
    cost = result.get("cost", {})
    found |= {f"cost/{key}": value for key, value in cost.items()}
    if "total_seconds" in cost:
        # Trials share the cache: the first would pay for all of them.
        found["cost/total_seconds"] = charged_seconds(cost)
    plain = {k: v for k, v in found.items() if isinstance(v, (int, float))}
    return {key: float(value) for key, value in plain.items() if math.isfinite(value)}


def validations(folder: Path, key: str) -> list[float]:
    """What a run has measured so far, one value a validation, from its `metrics.jsonl`."""
    lines = whole_lines(folder / "metrics.jsonl")
    found = [json.loads(line) for line in lines if f'"{key}"' in line]
    return [event[key] for event in found if event.get(key) is not None]
