from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from llmexp.errors import UserError
from llmexp.sweeps.launcher import SweepLauncher

if TYPE_CHECKING:
    from llmexp.sweeps.job import Job

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Local(SweepLauncher):
    """Jobs as processes of this machine.

    `devices` are GPUs by number, counted among those that the sweep itself may see: each running
    job sees one of them, the next free one. With several jobs at once on a CPU each gets its share
    of the cores, unless OMP_NUM_THREADS is set.
    """

    def __init__(self, n_jobs: int = 1, devices: list[int] | None = None):
        super().__init__(n_jobs)
        self.devices = devices

    def start(self, job: Job, slot: int) -> subprocess.Popen[bytes]:
        from llmexp.jobs.job import command
        from llmexp.jobs.launch import PARENT

        more = {PARENT: str(os.getpid())}
        if self.n_jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            more["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.n_jobs))
        if self.devices:
            more[VISIBLE] = visible(self.devices[slot % len(self.devices)])
        with (job.folder / "console.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(  # noqa: S603
                command(job.folder), env=os.environ | more, stdout=log, stderr=subprocess.STDOUT
            )


def visible(number: int) -> str:
    """What a job must be told to see this device of the sweep's, which may be some of a machine's.

    A queue that shares a machine names what it allots: numbers, or the UUIDs of GPUs or of parts.
    """
    if VISIBLE not in os.environ:
        return str(number)
    mine = [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
    if not 0 <= number < len(mine):
        raise UserError(
            f"hydra.launcher.devices: there is no device {number}; {VISIBLE} gives this sweep "
            f"{len(mine)}, counted from 0"
        )
    return mine[number]
