"""What SLURM expects of a job that it asks to make room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

from llmexp.jobs.launch import is_first


def requeued(number: int, resume: str) -> str:
    """Queue this job again where SLURM's warning (`--signal=USR1@90`) ended it; what to add to why.

    SIGTERM means that SLURM (or a person) decides about the job: then nothing is asked of it.
    """
    job = job_id()
    if number != signal.SIGUSR1 or job is None or not is_first():
        return ""
    if resume != "auto":
        return f"; SLURM job {job} is not requeued: it would begin anew, say resume=auto"
    scontrol = shutil.which("scontrol")
    if scontrol is None:
        return f"; SLURM job {job} is not requeued: there is no scontrol on the PATH"
    done = subprocess.run([scontrol, "requeue", job], capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        return f"; scontrol requeue {job} failed: {(done.stderr or done.stdout).strip()[:200]}"
    return f"; SLURM job {job} is requeued"


def job_id() -> str | None:
    """The number of this job, as part of its array where there is one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
