"""One experiment in one process: `python -m llmexp.jobs.job FOLDER` runs FOLDER/config.yaml.

A single run, each job of a sweep and each rank of a distributed run are all this command, so every
rank sees the same config and Hydra is never asked to compose twice (Lightning #11300).
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import nullcontext
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from llmexp import masked_stream
from llmexp.errors import ConfigError, UserError, shown
from llmexp.jobs import advice, changes, hydra_record
from llmexp.jobs.launch import end_with_parent, is_first
from llmexp.jobs.lock import FILE as LOCK
from llmexp.jobs.lock import FolderLock
from llmexp.jobs.outcome import Stopped
from llmexp.jobs.results import (
    EXIT_CODES,
    begun,
    is_full,
    mark_stopped,
    read_result,
    reserve,
    write_atomic,
    write_result,
)
from llmexp.jobs.signals import Signals
from llmexp.secrets import leaves_hidden, recorded, supplied

CONFIG = "config.yaml"
# Names the folder that held nothing before this very command. Not in the folder's own config: there
# it would still stand when the folder holds other things, and anybody can write one.
MADE = "LLMEXP_MADE"
# What a run may have written when it is refused.
FILES = (CONFIG, LOCK, "result.json", ".room", "provenance.json", "metrics.jsonl", "rank_*.log")
OURS = (*FILES, "wandb", "csv", "tensorboard")
# How a run was launched, where its config does not say.
LAUNCH: dict[str, Any] = {"overrides": [], "options": [], "sweep": False}


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "llmexp.jobs.job", str(folder)]


def prepare(cfg: DictConfig, hydra: DictConfig, keep: bool = False) -> Path:
    """Write the resolved config into the folder Hydra made; refuses a folder that holds a run.

    `keep` leaves the folder locked for the job that replaces this process: what it runs is what
    was written here.
    """
    folder = Path(hydra.runtime.output_dir)
    tree = recorded(cfg)
    hydra_record.scrub(folder, hydra)
    _refuse_taken(
        folder, tree
    )  # before a lock is left there; again below, where nobody else writes
    with FolderLock(folder) as lock:
        made = all(path.name == LOCK for path in folder.iterdir())
        try:
            _write(folder, tree, hydra)
        except OSError as error:
            if not is_full(error):
                raise
            raise UserError(advice.room(folder, error)) from error
        if keep:
            lock.keep()
            os.environ[MADE] = str(folder.resolve()) if made else ""
    return folder


def _refuse_taken(folder: Path, tree: dict[str, Any]) -> None:
    if (folder / "result.json").exists() and tree["resume"] == "never":
        raise UserError(
            f"{folder} holds a run already; say resume=auto to continue it, or choose another "
            "hydra.run.dir"
        )


def _write(folder: Path, tree: dict[str, Any], hydra: DictConfig) -> None:
    """The config and the first result of a run, where none is there that it would not continue."""
    _refuse_taken(folder, tree)
    overrides = leaves_hidden([line.removeprefix("++") for line in hydra.overrides.task])
    launch = {
        "overrides": overrides,
        "options": hydra_record.options(hydra),
        "sweep": hydra.mode.name == "MULTIRUN",
    }
    text = OmegaConf.to_yaml({**tree, "launch": launch})
    if (folder / CONFIG).is_file():
        written: Any = OmegaConf.to_container(OmegaConf.create(text))
        written.pop("launch")
        changes.check(folder, read_config(folder)[0], written)
    reserve(folder)
    write_atomic(folder / CONFIG, text)
    if not (folder / "result.json").exists():
        write_result(folder, begun(folder, tree, overrides, launch["options"]))


def read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The experiment's tree and how it was launched, from a run folder; data, never code."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is no run folder: it has no {CONFIG}")
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException, OSError) as error:
        raise UserError(f"{path} is no recorded config: {str(error).splitlines()[0]}") from error
    launch = tree.pop("launch", {}) if isinstance(tree, dict) else None
    if not isinstance(launch, dict):
        raise UserError(f"{path} is no recorded config: it is no mapping of groups")
    return tree, _normal(launch, path)


def _normal(launch: dict[str, Any], path: Path) -> dict[str, Any]:
    """How a run was launched, with every key there and of its type."""
    found = {key: launch.get(key, default) for key, default in LAUNCH.items()}
    for key, value in found.items():
        words = value if isinstance(value, list) else []
        if type(value) is not type(LAUNCH[key]) or not all(isinstance(w, str) for w in words):
            raise UserError(f"{path} is no recorded config: launch.{key} is {shown(value)}")
    return found


def main(argv: list[str]) -> int:
    """Run the experiment of a folder and return its exit code."""
    if len(argv) != 1:
        raise UserError("usage: llmexp job FOLDER")
    masked_stream.outlive_readers()
    folder = Path(argv[0]).resolve()
    read_config(folder)  # or it is no run folder, and gets no lock
    # The lock comes first: what follows writes into the folder however it ends.
    with FolderLock(folder) if is_first() else nullcontext(), Signals() as signals:
        tree, _ = read_config(folder)
        made = os.environ.pop(MADE, "") == str(folder)
        signals.last_words = partial(mark_stopped, folder)
        try:
            signals.release()
            # Somebody else's file may lack any key; `build` says which.
            if tree.get("resume") == "auto" and read_result(folder).get("status") == "completed":
                if is_first():
                    print(f"{folder} is completed: there is nothing to resume")
                return 0
            end_with_parent()
            return _run(folder, tree, made, signals)
        except Stopped as stop:
            return mark_stopped(folder, stop.status, str(stop))


def _run(folder: Path, tree: dict[str, Any], made: bool, signals: Signals) -> int:
    """The exit code of the run; `made`: its folder held nothing before."""
    from llmexp.configure.preflight import build
    from llmexp.unneeded import import_libraries

    try:
        experiment = build(supplied(tree), lambda key: f"{folder.name}/{CONFIG}")
        import_libraries()  # before Lightning does
        from llmexp.hardware import hide_gpus
        from llmexp.run import run

        hide_gpus(experiment.config.hardware)
        result = run(experiment, folder, signals)
    except UserError as error:
        if made and is_first() and _holds_only_ours(folder):
            _discard(folder)
        mark_stopped(folder, "failed", str(error))
        raise
    return EXIT_CODES[result["status"]]


def _holds_only_ours(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    return all(any(fnmatchcase(name, ours) for ours in OURS) for name in names)


def _discard(folder: Path) -> None:
    """A refused run leaves nothing behind."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def _entry() -> None:
    from llmexp.cli import report

    masked_stream.install()
    try:
        code = main(sys.argv[1:])
    except (UserError, ConfigError) as error:
        print(report(error), file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    _entry()
