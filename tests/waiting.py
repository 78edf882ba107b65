"""Waiting for another process: as long as a loaded machine needs, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    happened: Callable[[], object],
    what: str,
    alive: Callable[[], object] = lambda: True,
    seconds: float = 240.0,
) -> None:
    """Come back once it happened; `alive`: whether it still can."""
    deadline = time.monotonic() + seconds
    while not happened():
        # What ended may have done it in its last moment.
        assert alive() or happened(), f"ended before: {what}"
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
