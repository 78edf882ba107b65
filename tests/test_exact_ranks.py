"""Two processes make the updates and the scores of one, and the widespread mistakes are noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from tests.exact import Measured, apart, measured, norms_apart
from tests.exact_cases import CASES, TELLING, Case, Cut, checkpoints, context, held_out, named
from tests.exact_worker import cuts
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("val", "test")
Found = dict[tuple[int, Cut, str], Measured]


def spawned(folder: Path, cases: list[Case]) -> Found:
    """What two real processes measured."""
    checkpoints(folder)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"GROUP_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    numbers = [str(CASES.index(case)) for case in cases]
    command = [sys.executable, "-m", "tests.exact_worker", str(folder), *numbers]
    with (folder / "log").open("w") as log:
        processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
                stdout=log,
                stderr=log,
            )
            for rank in "01"
        ]
        try:
            codes = [process.wait(timeout=540) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert codes == [0, 0], (folder / "log").read_text()[-3000:]
    return torch.load(folder / "measured.pt", weights_only=False)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: Any) -> Iterator[Callable[[Case], tuple[Path, Found]]]:
    """Measures a case together with all of its kind, once, whichever test asks first."""
    base = tmp_path_factory.getbasetemp()
    # Test processes of one session stand beside each other.
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    found: dict[str, Found] = {}

    def of(case: Case) -> tuple[Path, Found]:
        kind = group(case)
        folder = base / f"ranks-{kind}"
        with FileLock(base / f"{kind}.lock"):
            if not (folder / "measured.pt").exists():
                folder.mkdir(exist_ok=True)
                spawned(folder, [c for c in CASES if group(c) == kind])
        if kind not in found:
            found[kind] = torch.load(folder / "measured.pt", weights_only=False)
        return folder, found[kind]

    yield of


def group(case: Case) -> str:
    """Cases that share a pair of processes."""
    return "telling" if case in TELLING else case.task


def one_process(folder: Path, case: Case) -> Measured:
    """The rows that two processes take at once, on one."""
    return measured(context(folder, case, Cut(8, 4 if case.batching == "tokens" else 1)))


@pytest.mark.parametrize("case", [named(case) for case in CASES])
def test_two_processes_make_the_updates_of_one(case: Case, ranks: Any) -> None:
    folder, found = ranks(case)
    whole, number = one_process(folder, case), CASES.index(case)
    for cut in cuts(case):
        loss, gradients = apart(found[number, cut, "right"], whole)
        assert loss < 1e-6 and gradients < 1e-5, cut
        assert norms_apart(found[number, cut, "right"], whole) < 1e-5, cut
    _, wrong = apart(found[number, cuts(case)[0], "wrong"], whole)
    assert wrong > 1e-3, "the mean of means passed"


@pytest.mark.parametrize("case", [named(case) for case in CASES])
def test_two_processes_score_every_example_once(case: Case, ranks: Any) -> None:
    folder, found = ranks(case)
    one, number = one_process(folder, case), CASES.index(case)
    # A language model writes answers to the first rows only.
    answers = list(range(held_out(case)[1] if case.task == "classification" else 3))
    for cut in cuts(case):
        two = found[number, cut, "right"]
        assert two.metrics.keys() == one.metrics.keys()
        assert two.metrics == pytest.approx(one.metrics, rel=1e-6, abs=1e-6)
        assert two.answered == one.answered == answers
        for split in SPLITS:
            (count, fillers), whole = two.held_out[split], one.held_out[split]
            assert count % 2 == 1 and fillers > 0 and whole == (count, 0)
    wrong = found[number, cuts(case)[0], "wrong"]
    assert max(losses_apart(wrong, one)) > 1e-4, "mean of means and repeated rows passed"
    repeated = found[number, cuts(case)[0], "repeated"]
    assert min(losses_apart(repeated, one)) > 1e-4, "repeated rows passed"
    if case.task == "classification":
        assert wrong.answered != answers and repeated.answered != answers


def losses_apart(one: Measured, other: Measured) -> list[float]:
    """Of each evaluated split."""
    names = [f"{split}/loss" for split in SPLITS]
    return [abs(one.metrics[name] - other.metrics[name]) for name in names]
