"""What a device reaches at best, in operations a second: a square matrix product.

python roof.py               2048-cubed in float32 on the CPU
python roof.py SIDE          SIDE-cubed in bfloat16 on the GPU, if there is one
"""

from __future__ import annotations

import json
import sys

import torch

from llmexp.profiling.roof import SIDE, roof

asked = [int(argument) for argument in sys.argv[1:]]
device = torch.device("cuda" if asked and torch.cuda.is_available() else "cpu")
dtype = torch.bfloat16 if asked else torch.float32
found = {
    "flops_per_second": roof(device, dtype, 3.0, *(asked or [SIDE])),
    "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
}
print(json.dumps(found))
