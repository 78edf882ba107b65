"""One of two processes that measure cases together: `python -m tests.exact_worker FOLDER NUMBER...`

The environment says which one, as torchrun would. The first process writes what was measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from llmexp import quiet
from tests.exact import Measured, measured
from tests.exact_cases import CASES, Case, Cut, context


def cuts(case: Case) -> list[Cut]:
    """What two processes do where one takes 8 rows at once, or 4 batches under a budget."""
    return [Cut(8, 2)] if case.batching == "tokens" else [Cut(4, 1), Cut(2, 2)]


def main(folder: Path, numbers: list[int]) -> None:
    quiet.libraries()
    found: dict[tuple[int, Cut, str], Measured] = {}
    both = {"strategy": "ddp", "devices": 2}
    for number in numbers:
        for cut in cuts(CASES[number]):
            made = context(folder, CASES[number], cut)
            found[number, cut, "right"] = measured(made, **both)
        # The first cut again, done wrong: all mistakes, and one of them alone.
        cut = cuts(CASES[number])[0]
        made = context(folder, CASES[number], cut)
        found[number, cut, "wrong"] = measured(made, wrong=True, **both)
        made = context(folder, CASES[number], cut)
        found[number, cut, "repeated"] = measured(made, repeated=True, **both)
    assert dist.get_world_size() == 2 and dist.get_backend() == "gloo"
    if dist.get_rank() == 0:
        torch.save(found, folder / "measured.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(number) for number in sys.argv[2:]])
