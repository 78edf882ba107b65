"""A port for processes that a test starts, where no other program is given one meanwhile.

The system hands out ports of its own range to whoever connects, also between a look and a use.
"""

from __future__ import annotations

import random
import socket

BELOW_EPHEMERAL = range(12000, 32000)
# Not seeded by a test or by another process: two that draw alike would meet.
DRAW = random.SystemRandom()


def free_port() -> int:
    """One that nobody listens at, drawn at random: others may be looking too."""
    while True:
        port = DRAW.choice(BELOW_EPHEMERAL)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
