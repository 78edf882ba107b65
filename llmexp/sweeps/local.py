from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from llmexp.sweeps.launcher import SweepLauncher

if TYPE_CHECKING:
    from llmexp.sweeps.job import Job


class Local(SweepLauncher):
    """Jobs as processes of this machine.

    `devices` are GPUs by number: each running job sees one of them, the next free one. With
    several jobs at once on a CPU each gets its share of the cores, unless OMP_NUM_THREADS is set.
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
            more["CUDA_VISIBLE_DEVICES"] = str(self.devices[slot % len(self.devices)])
        with (job.folder / "console.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(  # noqa: S603
                command(job.folder), env=os.environ | more, stdout=log, stderr=subprocess.STDOUT
            )
