"""What a test needs of the machine that not every machine has."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unable(why: str) -> NoReturn:
    """Skipped, but not where everything has to be shown."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}, and CI=true")
    pytest.skip(why)
