"""Runs of several strategies in one process, cold and then on the cache that the first one left.

`python -m tests.repeat_worker FOLDER STRATEGY:TASK...`; dropout is on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests import runs, tiny

POSES = {
    "classification": (runs.classified, tiny.bert),
    "instruction": (runs.answered, tiny.llama),
    "language_modeling": (runs.written, tiny.gpt2),
}


def main(folder: Path, wanted: list[str]) -> None:
    for one in wanted:
        strategy, task = one.split(":")
        pose, make = POSES[task]
        net = folder / f"net-{task}"
        if not net.exists():
            make(net)
        given = [
            *pose(folder / f"data-{task}"),
            f"strategy={strategy}",
            f"cache.dir={folder}/cache",
        ]
        given += ["model=local", f"model.path={net}", "+model.dropout=0.1", "seed=3"]
        for state in ("cold", "warm"):
            runs.finished(folder / f"{strategy}-{task}-{state}", *given)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
