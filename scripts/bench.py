"""Times this project against its peers on the same rows, seed, batch size and updates.

    python scripts/bench.py                        every bar, three alternating rounds, the table
    python scripts/bench.py --only P4,P5 --pairs 5
    python scripts/bench.py --resume               goes on where a session was cut off
    python scripts/bench.py --report --json docs/benchmarks.json --picture docs/benchmarks.svg
    python scripts/bench.py --tiny --pairs 1       the whole path, quickly; its figures mean nothing

Each contestant is a process of its own. Contestants take turns, in reversed order in every other
round; a figure is the median over rounds of what is computed within one, so that a noisy machine
slows all sides alike. A peer that is not installed is left out and named: pip install
'llmexp[bench]' brings those that pip can. A contestant that fails is a row of the table, and the
exit code is 1. LitGPT wants an environment of its own: python -m venv litgpt &&
litgpt/bin/pip install litgpt requests, then --litgpt-python litgpt/bin/python. nanoGPT is not a
package: git clone https://github.com/karpathy/nanoGPT, then --nanogpt nanoGPT.
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
from contest.ledger import FAILED, Ledger
from contest.sides import ContestantError, Report, Side, measured
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
    parser.add_argument("--litgpt-python", help="a Python that has LitGPT, which joins P6")
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT, which joins P11")
    parser.add_argument("--tiny", action="store_true", help="a few rows of everything")
    parser.add_argument("--resume", action="store_true", help="keep rounds that are done")
    parser.add_argument("--report", action="store_true", help="measure nothing, show what is there")
    parser.add_argument("--raw", type=Path, default=Path("outputs/bench/raw.jsonl"))
    parser.add_argument("--json", type=Path, default=Path("outputs/bench/bench.json"),
                        help="figures and machine, as docs/benchmarks.json")  # fmt: skip
    parser.add_argument("--picture", type=Path, default=Path("outputs/bench/bench.svg"),
                        help="the bars as an SVG")  # fmt: skip
    return parser.parse_args()


def play(contest: Contest, ledger: Ledger, rounds: int, folder: Path) -> bool:
    """Run the rounds of one contest that are not there yet; whether all that ran ended well."""
    sides = [side for side in contest.sides if present(contest, side)]
    done = ledger.rounds(contest)
    wanted = [k for k in range(rounds) if not whole(done.get(k, {}), sides, k)]
    well = True
    for k, side in enumerate(contest.before if wanted else ()):
        well &= FAILED not in attempt(side, folder / f"before{k}")
    for k in wanted:
        turns = [side for side in sides if k == 0 or not side.once]
        for side in turns if k % 2 == 0 else turns[::-1]:
            began = time.perf_counter()
            report = attempt(side, folder / f"{k}_{sides.index(side)}")
            well &= FAILED not in report
            ledger.add(contest, k, side.name, report)
            seconds = time.perf_counter() - began
            print(f"{contest.number:4} {contest.title}, round {k + 1}: {side.name} took "
                  f"{seconds:.1f} s", flush=True)  # fmt: skip
    return well


def present(contest: Contest, side: Side) -> bool:
    missing = side.missing()
    if missing:
        names = ", ".join(missing)
        print(f"{contest.number:4} {side.name}: {names} is not installed, left out", flush=True)
    return not missing


def whole(reports: dict[str, Report], sides: list[Side], k: int) -> bool:
    """Whether every side has had its turn; one that failed has another."""
    turns = [reports.get(side.name) for side in sides if k == 0 or not side.once]
    return all(report is not None and FAILED not in report for report in turns)


def attempt(side: Side, folder: Path) -> Report:
    """A contestant's report; one that fails is named and the others go on."""
    try:
        return measured(side, folder)
    except ContestantError as error:
        print(error, file=sys.stderr, flush=True)
        return {FAILED: True}
    finally:
        # Weights and caches of every run would fill a disk; warm caches lie elsewhere.
        shutil.rmtree(folder, ignore_errors=True)


def show(contests: list[Contest], ledger: Ledger, asked: argparse.Namespace) -> None:
    """The table of everything that the ledger has, as text, JSON and a picture."""
    found = page.page(contests, ledger)
    print(page.table(found["bars"]))
    print(page.mixed(found["bars"]))
    for path in (asked.json, asked.picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    picture.draw(found["bars"], asked.picture)


def main() -> int:
    asked = arguments()
    sizes = TINY if asked.tiny else Sizes(asked.rows, asked.questions, asked.updates, short=60)
    ledger = Ledger(asked.raw, sizes)
    well = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contests = agenda(works(folder, sizes), folder / "warm", asked.litgpt_python, asked.nanogpt)
        chosen = [c for c in contests if not asked.only or c.number in asked.only.split(",")]
        if not asked.report:
            well = carry_out(chosen, ledger, asked, lambda i: folder / str(i))
        show(contests, ledger, asked)
    return 0 if well else 1


def carry_out(
    chosen: list[Contest], ledger: Ledger, asked: argparse.Namespace, where: Callable[[int], Path]
) -> bool:
    """Every contest, one after another; whether no contestant failed."""
    if not asked.resume:
        ledger.forget(chosen)
    well = True
    for i, contest in enumerate(chosen):
        well &= play(contest, ledger, asked.pairs, where(i))
        print(page.table(page.of_contest(contest, ledger)), flush=True)
    return well


if __name__ == "__main__":
    sys.exit(main())
