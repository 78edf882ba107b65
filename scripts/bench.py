"""Times this project against its peers on the same rows, seed, batch size and updates.

    python scripts/bench.py                        every bar, three alternating rounds, the table
    python scripts/bench.py --only P4,P5 --pairs 5
    python scripts/bench.py --resume               goes on where a session was cut off
    python scripts/bench.py --report --json docs/benchmarks.json --picture docs/benchmarks.svg
    python scripts/bench.py --tiny --pairs 1       the whole path, quickly; its figures mean nothing

Each contestant is a process of its own. Contestants take turns, in reversed order in every other
round; a figure is the median over rounds of what is computed within one, so that a noisy machine
slows all sides alike. A peer that is not installed is left out and named: pip install
'llmexp[bench]' brings those that pip can.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contest import page, picture
from contest.agenda import Contest, agenda
from contest.ledger import Ledger
from contest.sides import ContestantError, Side, measured
from contest.works import TINY, Sizes, works


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="some bars: P4,P5")
    parser.add_argument("--pairs", type=int, default=3, help="rounds of each contest")
    parser.add_argument("--rows", type=int, default=2000, help="of the classification")
    parser.add_argument("--questions", type=int, default=400, help="of the instruction tuning")
    parser.add_argument("--updates", type=int, default=1000, help="of P8 and P11")
    parser.add_argument("--tiny", action="store_true", help="a few rows of everything")
    parser.add_argument("--resume", action="store_true", help="keep rounds that are done")
    parser.add_argument("--report", action="store_true", help="measure nothing, show what is there")
    parser.add_argument("--raw", type=Path, default=Path("outputs/bench/raw.jsonl"))
    parser.add_argument("--json", type=Path, help="figures and machine, as docs/benchmarks.json")
    parser.add_argument("--picture", type=Path, help="the bars as an SVG")
    return parser.parse_args()


def play(contest: Contest, ledger: Ledger, rounds: int, folder: Path) -> None:
    """Run the rounds of one contest that are not there yet."""
    sides = [side for side in contest.sides if present(contest, side)]
    done = ledger.rounds(contest)
    wanted = [k for k in range(rounds) if not whole(done.get(k, {}), sides, k)]
    for k, side in enumerate(contest.before if wanted else ()):
        attempt(side, folder / f"before{k}")
    for k in wanted:
        turns = [side for side in sides if k == 0 or not side.once]
        for side in turns if k % 2 == 0 else turns[::-1]:
            began = time.perf_counter()
            report = attempt(side, folder / f"{k}_{sides.index(side)}")
            if report is not None:
                ledger.add(contest, k, side.name, report)
                seconds = time.perf_counter() - began
                print(f"{contest.number:4} {contest.title}, round {k + 1}: {side.name} took "
                      f"{seconds:.1f} s", flush=True)  # fmt: skip


def present(contest: Contest, side: Side) -> bool:
    missing = side.missing()
    if missing:
        names = ", ".join(missing)
        print(f"{contest.number:4} {side.name}: {names} is not installed, left out", flush=True)
    return not missing


def whole(reports: dict[str, object], sides: list[Side], k: int) -> bool:
    return all(side.name in reports for side in sides if k == 0 or not side.once)


def attempt(side: Side, folder: Path) -> dict[str, object] | None:
    """A contestant's report; one that fails is named and the others go on."""
    try:
        return measured(side, folder)
    except ContestantError as error:
        print(error, file=sys.stderr, flush=True)
        return None
    finally:
        # Weights and caches of every run would fill a disk.
        shutil.rmtree(folder / "run", ignore_errors=True)


def show(contests: list[Contest], ledger: Ledger, asked: argparse.Namespace) -> None:
    found = page.page(contests, ledger)
    print(page.table(found["bars"]))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if asked.picture:
        picture.draw(found["bars"], asked.picture)


def main() -> None:
    asked = arguments()
    sizes = Sizes(asked.rows, asked.questions, asked.updates, short=60)
    ledger = Ledger(asked.raw, TINY if asked.tiny else sizes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = works(folder, TINY if asked.tiny else sizes)
        contests = agenda(made, folder / "warm")
        chosen = [c for c in contests if not asked.only or c.number in asked.only.split(",")]
        if not asked.report:
            carry_out(chosen, ledger, asked, lambda i: folder / str(i))
        show(contests, ledger, asked)


def carry_out(
    chosen: list[Contest], ledger: Ledger, asked: argparse.Namespace, where: Callable[[int], Path]
) -> None:
    if not asked.resume:
        ledger.forget(chosen)
    for i, contest in enumerate(chosen):
        play(contest, ledger, asked.pairs, where(i))
        print(page.table(page.lines([contest], ledger)), flush=True)


if __name__ == "__main__":
    main()
