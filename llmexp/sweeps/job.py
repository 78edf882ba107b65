"""One job of a sweep: a composed config, the folder it belongs to, and what is there already."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from llmexp.errors import UserError
from llmexp.jobs import job as run_job
from llmexp.jobs.results import is_finished, mark_dead, read_result, write_result
from llmexp.sweeps.board import GOOD, Entry
from llmexp.sweeps.identity import identity
from llmexp.sweeps.names import tree_of


class Job:
    """A job before, while and after it runs; `entry` is its line in `sweep.json`."""

    def __init__(self, config: DictConfig, root: Path):
        """`config` is composed, Hydra's node included; `root` is the folder of the sweep."""
        HydraConfig.instance().set_config(config)
        self.config = config
        name = str(OmegaConf.select(config, "hydra.sweep.subdir"))
        self.folder = root / name
        self.tree = tree_of(config)
        overrides = [line.lstrip("+") for line in config.hydra.overrides.task]
        self.entry = Entry(name=name, identity=identity(self.tree), overrides=overrides)

    @property
    def result(self) -> dict[str, Any]:
        """What its run has left so far; {} where that is nothing, or of another experiment."""
        return {} if self.stranger() else read_result(self.folder)

    def stranger(self) -> str | None:
        """Why what lies in its folder is not its own; None where it is."""
        another = "give another hydra.sweep.dir, or leave hydra.sweep.subdir out"
        try:
            tree, _ = run_job.read_config(self.folder)
        except UserError as error:
            return f"{error}; {another}"
        same = identity(tree) == self.entry.identity
        return None if same else f"{self.folder} holds another experiment; {another}"

    @property
    def complete(self) -> bool:
        return self.result.get("status") in GOOD

    @property
    def objective(self) -> float | None:
        found = self.result.get("metrics", {}).get(self.tree["objective"])
        return float(found) if found is not None else None

    def prepare(self) -> None:
        """Write its config; a run that was cut off, or failed, goes on in its folder."""
        if read_result(self.folder) and (why := self.stranger()):
            raise UserError(why)
        config = copy.deepcopy(self.config)
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.set_readonly(config.hydra.runtime, False)
        with open_dict(config):
            config.hydra.runtime.output_dir = str(self.folder.resolve())
            config.resume = "auto"
        HydraConfig.instance().set_config(config)
        keys = [str(key) for key in config if key != "hydra"]
        settings: Any = HydraConfig.get()
        run_job.prepare(OmegaConf.masked_copy(config, keys), settings)
        result = read_result(self.folder)
        if is_finished(result):
            # Should this start die without a word, the end of the last one is not its own.
            write_result(self.folder, {**result, "status": "running", "reason": None})

    def end(self, code: int, pruned: str | None) -> None:
        """Its process has ended: learn how, and write it down where its run could not.

        Whatever became of its files meanwhile is its own failure, and no other job's.
        """
        try:
            if why := self.stranger():
                raise UserError(f"its folder was changed while it ran: {why}")
            result = read_result(self.folder)
            if not is_finished(result):
                result = mark_dead(self.folder, code, self.folder / "console.log")
            if pruned is not None and result["status"] != "completed":
                write_result(self.folder, {**result, "status": "pruned", "reason": pruned})
            self.learn()
        except (UserError, OSError) as error:
            self.entry.status, self.entry.reason = "failed", str(error)

    def learn(self) -> None:
        """Take status, reason and test metrics from its run into its entry."""
        result = self.result
        self.entry.status = result["status"]
        self.entry.reason = result.get("reason")
        metrics = result.get("metrics", {})
        self.entry.values = {
            key: value
            for key, value in metrics.items()
            if value is not None and (key.startswith("test/") or key == self.tree["objective"])
        }
