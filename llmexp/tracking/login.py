"""Whether W&B can be online, found out in a moment and without importing it."""

from __future__ import annotations

import http.client
import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

HOST_VARIABLE = "WANDB_BASE_URL"
# Seconds.
WAIT = 5


def why_offline() -> str | None:
    """Why W&B cannot be online, in words; None where it can."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return f"WANDB_MODE={mode}"
    address = os.environ.get(HOST_VARIABLE, "https://api.wandb.ai")
    host = urlsplit(address)
    if "WANDB_API_KEY" not in os.environ and not _in_netrc(host.hostname or ""):
        return "not logged in"
    if host.scheme not in ("http", "https"):
        return f"{HOST_VARIABLE} is no web address"
    return None if _answers(address) else f"{host.hostname} does not answer"


def _answers(address: str) -> bool:
    """Whether anything answers, whatever it says; W&B itself would try for 19 seconds."""
    try:
        urllib.request.urlopen(address, timeout=WAIT).close()  # noqa: S310  (http or https)
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    return True


def _in_netrc(host: str) -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False
