"""What every test is given."""

from __future__ import annotations

import os
import random

import pytest

from tests.ports import free_port


def pytest_configure() -> None:
    """Before there are test processes: they share what is drawn here."""
    os.environ.setdefault("FUZZ_SEED", str(random.SystemRandom().randrange(2**32)))


def pytest_report_header() -> str:
    return f"FUZZ_SEED={os.environ['FUZZ_SEED']}"


@pytest.fixture(autouse=True)
def cache_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a test finds in the cache, it put there."""
    monkeypatch.setenv("LLMEXP_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def port_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processes of a run meet: Lightning's own choice may be taken before it is used."""
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
