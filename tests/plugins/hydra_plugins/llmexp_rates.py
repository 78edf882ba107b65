"""A place where a trial is measured in a moment: a known function of its learning rate.

Best at 1e-3. Each trial validates three times; `LLMEXP_SECONDS` is how long one of them takes.
No trial ends before the file is there that `LLMEXP_GATE` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from llmexp.sweeps import local

TRIAL = """
import json, math, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
lines = (folder / "config.yaml").read_text().splitlines()
rate = float(next(line.split()[1] for line in lines if line.startswith("  learning_rate:")))
loss = (math.log10(rate) + 3) ** 2
with (folder / "starts").open("a") as file:
    file.write("x")
def leave(status, code=0):
    metrics = {"val/loss": loss, "test/accuracy": 1 / (1 + loss)}
    cost = {"total_seconds": -math.log10(rate)}
    result = {"status": status, "reason": None, "metrics": metrics, "cost": cost}
    (folder / "result.json").write_text(json.dumps(result))
    sys.exit(code)
signal.signal(signal.SIGTERM, lambda *_: leave("preempted", 143))
with (folder / "metrics.jsonl").open("a") as file:
    for step in range(3):
        file.write(json.dumps({"step": step, "val/loss": loss + 2 - step}) + "\\n")
        file.flush()
        time.sleep(float(os.environ.get("LLMEXP_SECONDS", "0")))
gate, deadline = os.environ.get("LLMEXP_GATE"), time.monotonic() + 300
while gate and not os.path.exists(gate) and time.monotonic() < deadline:
    time.sleep(0.02)
leave("completed")
"""


class Rates(local.Local):
    def start(self, job: Any, slot: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-S", "-c", TRIAL, str(job.folder)]
        with (job.folder / "console.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(words, env=os.environ, stdout=log, stderr=subprocess.STDOUT)
