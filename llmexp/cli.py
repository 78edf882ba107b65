"""The commands. `run` composes and checks before Hydra makes a folder, then hands over."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp import masked_stream
from llmexp.errors import ConfigError, UserError, did_you_mean
from llmexp.jobs import launch
from llmexp.jobs.outcome import Stopped
from llmexp.jobs.results import EXIT_CODES
from llmexp.jobs.signals import Signals, hold
from llmexp.secrets import unsaid

if TYPE_CHECKING:
    from llmexp.configure.composed import Composed

USAGE_EXIT = 2


def entry(*first: str) -> None:
    """Process entry point of `llmexp` and `run.py`; exits with a code of docs/faults.md."""
    masked_stream.install()
    launch.keep_path()
    try:
        with Signals(last_seconds=10.0):
            code = main([*first, *sys.argv[1:]])
    except Stopped as stop:
        code = EXIT_CODES[stop.status]
    except UserError as error:
        print(report(error), file=sys.stderr)
        code = USAGE_EXIT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def report(error: UserError) -> str:
    """A user's mistake as text: one sentence, or a list where there are several."""
    if isinstance(error, ConfigError) and len(error.complaints) > 1:
        lines = "\n".join(f"  {n}. {unsaid(c)}" for n, c in enumerate(error.complaints, 1))
        return f"llmexp: {len(error.complaints)} things to mend before this can run:\n{lines}"
    return f"llmexp: {unsaid(str(error))}"


def main(argv: list[str]) -> int:
    """Dispatch to a command; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise UserError(f"there is no command {name}; {did_you_mean(name, COMMANDS)}")
    return COMMANDS[name](rest)


def _overview() -> str:
    firsts = {name: (f.__doc__ or "").splitlines()[0] for name, f in COMMANDS.items()}
    lines = [f"  llmexp {name:<9} {first}" for name, first in firsts.items()]
    return "\n".join(["usage: llmexp COMMAND ...", "", *lines])


def run(argv: list[str]) -> int:
    """Run an experiment, or a sweep with -m: llmexp run strategy=lora model=minilm seed=1"""
    from llmexp.configure import arguments
    from llmexp.configure.compose import open_keys

    args = arguments.parsed(argv)
    if args.help:
        print(arguments.usage(args.config_dir))
        return 0
    if args.shell_completion:
        return _show(args)
    args.overrides = open_keys(args.overrides)
    jobs = _compose(args)
    if args.cfg or args.info:
        return _show(args)
    checked = _check(jobs, args.config_name)
    if checked is not None:
        return checked
    if launch.started_from_outside() > 1:
        _join(args)
    if jobs[0].sweeps:
        return _sweep(args, jobs)
    return _hand_over(args, "hydra.mode=RUN")


def _sweep(args: argparse.Namespace, jobs: list[Composed]) -> int:
    """Run the jobs of a sweep in its folder, then show what became of each."""
    from llmexp.sweeps.names import tell_apart
    from llmexp.sweeps.search import Search
    from llmexp.sweeps.settings import is_a
    from llmexp.sweeps.start import board_of
    from llmexp.sweeps.table import show

    masked_stream.outlive_readers()
    shared = is_a(Search, jobs[0].hydra["sweeper"]["_target_"])
    with board_of(Path(jobs[0].hydra["sweep"]["dir"]), args.overrides, shared) as board:
        _hand_over(args, tell_apart(jobs), "hydra.mode=MULTIRUN")
        refused = board.read().get("refused")
        if refused and refused["pid"] == os.getpid():
            raise UserError(refused["why"])
        code = board.close()
        show(board.read(), board.folder)
    return code


def _join(args: argparse.Namespace) -> None:
    """Where torchrun or srun started this process, only the first one makes the folder."""
    from llmexp.configure.compose import compose_jobs
    from llmexp.jobs import job

    folder = launch.shared_folder(args.overrides, args.multirun).resolve()
    if launch.is_first():
        return
    (composed,) = compose_jobs(args.overrides, args.config_name, args.config_dir, False)
    launch.join(folder / job.CONFIG, composed.recorded)
    command = job.command(folder)
    os.execv(command[0], command)  # noqa: S606


def _compose(args: argparse.Namespace) -> list[Composed]:
    """Compose every job that the command line asks for."""
    from llmexp.configure.compose import compose_jobs
    from llmexp.sweeps import names

    names.remember(names.sweep_name(args.overrides, args.config_name, args.config_dir))
    return compose_jobs(args.overrides, args.config_name, args.config_dir, args.multirun)


def _check(jobs: list[Composed], name: str) -> int | None:
    """Build the specs of every job; an exit code where that is all there is to do."""
    from llmexp.configure.preflight import build

    if any(job.tree["preview"] for job in jobs):
        from llmexp.doctor.command import preview

        return preview([job for job in jobs if job.tree["preview"]], name)
    complaints: list[str] = []
    for job in jobs:
        try:
            build(job.tree, job.where)
        except ConfigError as error:
            complaints += error.complaints
    if complaints:
        raise ConfigError(complaints)
    if all(job.tree["dry"] for job in jobs):
        for job in jobs:
            print(f"{job.tree['name']}: composes and passes every check that needs no weights")
        return 0
    return None


def _show(args: argparse.Namespace) -> int:
    """What Hydra itself can tell about a config: --cfg, --info and the shell's completion."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from llmexp.configure.compose import opened_for
    from llmexp.configure.refusals import first_line

    with opened_for(args.overrides, args.config_dir) as (hydra, lines):
        try:
            if args.shell_completion:
                hydra.shell_completion(args.config_name, args.overrides)
            elif args.info:
                hydra.show_info(args.info, args.config_name, lines)
            else:
                hydra.show_cfg(args.config_name, lines, args.cfg, args.package, args.resolve)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise UserError(f"hydra: {first_line(error)}") from error
    return 0


def _hand_over(args: argparse.Namespace, *more: str) -> int:
    """Let Hydra make the folders; a single run then replaces this process by its job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException

    from llmexp.configure.compose import opened_for
    from llmexp.configure.refusals import first_line
    from llmexp.jobs import job

    prepared: list[Path] = []
    refused: list[UserError] = []

    def one(cfg: Any) -> float | None:
        from llmexp.sweeps.start import one_job

        return one_job(cfg)

    def single(cfg: Any) -> None:
        # From here on the folder says how the run ended, so its job takes the signals.
        hold()
        try:
            prepared.append(job.prepare(cfg, HydraConfig.get(), keep=True))  # type: ignore[arg-type]
        except UserError as error:  # Hydra would say more than this sentence
            refused.append(error)

    with opened_for(args.overrides, args.config_dir) as (hydra, lines):
        start, task = (hydra.run, single) if "hydra.mode=RUN" in more else (hydra.multirun, one)
        try:
            start(args.config_name, task, [*lines, *more])
        except HydraException as error:
            raise UserError(f"hydra: {first_line(error)}") from error
    if refused:
        raise refused[0]
    if not prepared:
        return 0
    sys.stdout.flush()
    command = job.command(prepared[0])
    os.execv(command[0], command)  # noqa: S606


def resume(argv: list[str]) -> int:
    """Go on with a run that was interrupted, as it was begun: llmexp resume outputs/RUN"""
    from llmexp.jobs.again import main as resume_main

    return resume_main(argv)


def job_command(argv: list[str]) -> int:
    """Run the experiment recorded in a run folder (what each job and each rank executes)"""
    from llmexp.jobs.again import of_anybody
    from llmexp.jobs.job import main as job_main

    for folder in argv:
        of_anybody(Path(folder).resolve())
    return job_main(argv)


def status(argv: list[str]) -> int:
    """Show how a sweep or a run is going: llmexp status outputs/sweeps/SWEEP --watch"""
    from llmexp.sweeps.status import main as status_main

    return status_main(argv)


def compare(argv: list[str]) -> int:
    """Put runs side by side, quality and cost, best first: llmexp compare outputs/"""
    from llmexp.compare.command import main as compare_main

    return compare_main(argv)


def doctor(argv: list[str]) -> int:
    """Show what a run would train on and whether it would work: llmexp doctor strategy=lora"""
    from llmexp.doctor.command import run as doctor_run

    return doctor_run(argv)


def predict(argv: list[str]) -> int:
    """Predict with a finished run: llmexp predict outputs/RUN "some text" """
    from llmexp.predict.load import main as predict_main

    return predict_main(argv)


def cache(argv: list[str]) -> int:
    """List or clear what is kept between runs: llmexp cache, llmexp cache clear --older-than 30"""
    from llmexp.cache.command import run as cache_run

    return cache_run(argv)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "resume": resume,
    "doctor": doctor,
    "status": status,
    "compare": compare,
    "predict": predict,
    "cache": cache,
    "job": job_command,
}
