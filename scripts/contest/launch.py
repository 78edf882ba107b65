"""Runs a command and writes what it took: seconds, the peak of its memory, how it ended.

    python launch.py FOLDER COMMAND ...     FOLDER/log.txt and FOLDER/took.json

Standard library only. Linux gives a process the peak of the one that started it, up to `exec`: a
contestant must be started by something smaller than itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

folder, command = Path(sys.argv[1]), sys.argv[2:]
began = time.perf_counter()
with (folder / "log.txt").open("w") as log:
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
took = {
    "wall_seconds": time.perf_counter() - began,
    # Linux counts kibibytes, macOS bytes.
    "peak_memory_mb": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    "exit_code": os.waitstatus_to_exitcode(status),
}
process.returncode = took["exit_code"]
(folder / "took.json").write_text(json.dumps(took), encoding="utf-8")
