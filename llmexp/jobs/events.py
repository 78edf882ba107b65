"""Files of one JSON object a line that grow while a run goes on, and may end in half a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def whole_lines(path: Path) -> list[str]:
    """The finished lines, without their ends; a death in the middle of writing leaves half of one.

    Cut before it is decoded, because half a line may end in half a character, and at newlines only:
    a text may hold the other marks at which Python splits lines.
    """
    data = path.read_bytes() if path.is_file() else b""
    return data[: data.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]


def events(path: Path) -> list[dict[str, Any]]:
    """What the finished lines say; [] where there is no file."""
    return [json.loads(line) for line in whole_lines(path) if line.strip()]
