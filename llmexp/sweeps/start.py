"""A sweep from the command line: it owns its folder, Hydra hands out its jobs, a table ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from llmexp.sweeps.board import Board
from llmexp.sweeps.claim import Claim
from llmexp.sweeps.job import Job
from llmexp.sweeps.local import Local
from llmexp.sweeps.names import shown
from llmexp.sweeps.pool import Pool


@contextmanager
def board_of(folder: Path, overrides: list[str], shared: bool) -> Iterator[Board]:
    """The board of a sweep while this process runs it; others may too where it is `shared`."""
    board = Board(folder, Claim(folder, shared))
    board.enter([shown(line) for line in overrides])
    try:
        yield board
    finally:
        board.claim.close()


def one_job(cfg: DictConfig) -> float | None:
    """The task for launchers that know nothing of `sweep.json` (Hydra's basic, joblib)."""
    config = OmegaConf.merge({}, cfg)
    assert isinstance(config, DictConfig)
    with open_dict(config):
        config.hydra = HydraConfig.get()
    job = Job(config, Path(str(HydraConfig.get().sweep.dir)))
    board = Board(job.folder.parent)
    board.plan([job])
    asked = Pool(board, Local()).run(iter([job]))
    if asked:
        raise SystemExit(128 + asked)
    return job.objective
