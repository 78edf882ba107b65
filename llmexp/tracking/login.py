"""Whether W&B can be online, found out in a moment and without importing it."""

from __future__ import annotations

import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

HOST_VARIABLE = "WANDB_BASE_URL"


def why_offline() -> str | None:
    """Why W&B cannot be online, in words; None where it can."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return f"WANDB_MODE={mode}"
    host = urlsplit(os.environ.get(HOST_VARIABLE, "https://api.wandb.ai"))
    if "WANDB_API_KEY" not in os.environ and not _in_netrc(host.hostname or ""):
        return "not logged in"
    try:
        # W&B's own attempt takes 19 seconds to give up.
        port = host.port or (443 if host.scheme == "https" else 80)
        socket.create_connection((host.hostname or "", port), timeout=3).close()
    except OSError:
        return f"{host.hostname} cannot be reached"
    return None


def _in_netrc(host: str) -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False
