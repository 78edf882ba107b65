"""Sweeps without training: composed jobs, and a place whose jobs are small scripts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from llmexp.configure.compose import conf_dir
from llmexp.sweeps.job import Job
from llmexp.sweeps.names import override

# What a job's process does, with FOLDER and its config; each ends as its seed says.
SCRIPT = """
import json, os, pathlib, signal, sys, time
folder, ends = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
text = (folder / "config.yaml").read_text()
seed = next(line.split()[1] for line in text.splitlines() if line.startswith("seed:"))
def leave(status, **more):
    result = {"status": status, "reason": None, "metrics": {"val/loss": float(seed)}} | more
    (folder / "result.json").write_text(json.dumps(result))
with (folder / "starts").open("a") as file:
    file.write("x")
end = ends.get(seed, "completes")
if end == "waits":
    def stop(number, frame):
        leave("preempted", reason="received SIGTERM")
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    (folder / "waiting").touch()
    time.sleep(400)
elif end == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif end == "runs out of memory":
    leave("out_of_memory", reason="out of memory at data.batch_size=8")
    sys.exit(4)
elif end == "loses its config":
    (folder / "config.yaml").unlink()
    leave("completed")
elif end == "changes its config":
    (folder / "config.yaml").write_text(text.replace("seed: ", "seed: 7"))
    leave("completed")
elif end == "breaks its config":
    (folder / "config.yaml").write_text("a: [")
    leave("completed")
elif end == "loses its folder":
    import shutil
    shutil.rmtree(folder)
elif end == "says nothing":
    print("it went wrong")
    sys.exit(1)
else:
    time.sleep(0.05)
    leave("completed")
"""


class Scripts:
    """A place whose jobs run `SCRIPT`; `ends` says by seed how one ends that does not complete."""

    def __init__(self, n_jobs: int = 1, **ends: str):
        self.n_jobs = n_jobs
        self.ends = {name.removeprefix("seed"): end for name, end in ends.items()}
        self.slots: list[int] = []

    def found(self, job: Job) -> None:
        """None of them outlives its sweep unseen."""

    def start(self, job: Job, slot: int) -> subprocess.Popen[bytes]:
        import json

        self.slots.append(slot)
        command = [sys.executable, "-S", "-c", SCRIPT, str(job.folder), json.dumps(self.ends)]
        with (job.folder / "console.log").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def jobs(root: Path, *lines: list[str]) -> list[Job]:
    """The jobs that these overrides make in one sweep; keys that all share are not in names."""
    lines = tuple(["tracking=none", *line] for line in lines)
    said = [{override(word) for word in line} for line in lines]
    same = ",".join(sorted(key for key, _ in set.intersection(*said)))
    more = [f"hydra.job.config.override_dirname.exclude_keys=[{same}]", "hydra.mode=MULTIRUN"]
    made = []
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="run"):
        for line in lines:
            config = compose("run", overrides=[*line, *more], return_hydra_config=True)
            made.append(Job(config, root))
    return made


def starts(job: Job) -> int:
    """How many processes have run in the folder of a job."""
    file = job.folder / "starts"
    return len(file.read_text()) if file.is_file() else 0
