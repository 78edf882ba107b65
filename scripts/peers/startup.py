"""How long a command takes that trains nothing, and whether it imported torch on its way.

python scripts/peers/startup.py COMMAND ...     the rest of `python`'s command line
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

TORCH = re.compile(r"\|\s+torch$", re.MULTILINE)

began = time.perf_counter()
done = subprocess.run([sys.executable, *sys.argv[1:]], capture_output=True, check=False)
seconds = time.perf_counter() - began
told = [sys.executable, "-X", "importtime", *sys.argv[1:]]
imports = subprocess.run(told, capture_output=True, check=False, text=True).stderr
found = {
    "seconds": seconds,
    "torch_imported": int(bool(TORCH.search(imports))),
    "exit_code": done.returncode,
}
print(json.dumps(found))
