"""How long a command takes that trains nothing, and whether it imported torch on its way.

python scripts/peers/startup.py CODE COMMAND ...     how it must end; the rest of `python`'s line
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

TORCH = re.compile(r"\|\s+torch$", re.MULTILINE)

ends, command = int(sys.argv[1]), sys.argv[2:]
began = time.perf_counter()
done = subprocess.run([sys.executable, *command], capture_output=True, check=False, text=True)
seconds = time.perf_counter() - began
if done.returncode != ends:
    print(done.stdout[-1000:], done.stderr[-2000:], file=sys.stderr)
    sys.exit(f"ended with {done.returncode}, not {ends}")
told = [sys.executable, "-X", "importtime", *command]
imports = subprocess.run(told, capture_output=True, check=False, text=True).stderr
print(json.dumps({"seconds": seconds, "torch_imported": int(bool(TORCH.search(imports)))}))
