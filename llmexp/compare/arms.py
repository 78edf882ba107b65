"""Runs that differ in nothing but the seed, as one thing with several draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmexp.compare.names import MOST_KEYS, names_of, numbered
from llmexp.compare.settings import differences, settings
from llmexp.errors import UserError, did_you_mean
from llmexp.jobs.results import FILE

Result = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Arm:
    """One way of using a model: its runs, one a seed, by seed; no other arm has its name."""

    name: str
    runs: list[Result]
    lost: list[Result] = field(default_factory=list)
    """Runs of other seeds that did not complete, one a seed."""
    notes: tuple[str, ...] = ()
    """What a reader must know about how they were gathered."""

    @property
    def seeds(self) -> int:
        return len(self.runs)

    def measured(self, metric: str) -> list[Result]:
        """The runs that have a metric: what its mean is over."""
        return [run for run in self.runs if run["metrics"].get(metric) is not None]

    def mean(self, node: str, key: str) -> float | None:
        """Of a number in result.json, over the runs that have it."""
        found = [run[node][key] for run in self.runs if run[node].get(key) is not None]
        return sum(found) / len(found) if found else None


def arms(
    runs: list[Result], by: list[str] | None = None, unfinished: list[Result] | None = None
) -> list[Arm]:
    """In order of first appearance; `by` names keys whose equality is enough."""
    apart: dict[Any, list[Result]] = {}
    for run in runs:
        key = tuple(value_of(run, name, runs) for name in by) if by else _identity(run)
        apart.setdefault(key, []).append(run)
    names = [" ".join(key) for key in apart] if by else names_of(list(apart.values()))
    made = zip(numbered(names), apart.values(), strict=True)
    found = [_arm(name, members) for name, members in made]
    return _with_lost(found, unfinished or [], by)


def _identity(run: Result) -> tuple[Any, ...]:
    """Everything that can change a number, the train rows included; not the seed."""
    return (tuple(sorted(run.get("fingerprint", {}).items())), *_set(run))


def _set(run: Result) -> tuple[Any, ...]:
    """What is known of a run from its first moment: it may end before its rows are read."""
    shown = tuple(str(run.get(key)) for key in ("strategy", "model", "data"))
    return (*shown, *sorted(settings(run).items()))


def _with_lost(found: list[Arm], unfinished: list[Result], by: list[str] | None) -> list[Arm]:
    """The arms with the seeds that they lack, so that nobody takes the rest for all of them."""
    if not unfinished or not found:
        return found
    every = [run for arm in found for run in arm.runs]

    def key(run: Result) -> tuple[Any, ...]:
        return tuple(value_of(run, name, every) for name in by) if by else _set(run)

    at: dict[Any, list[dict[Any, Result]]] = {}
    lost: list[dict[Any, Result]] = [{} for _ in found]
    for arm, mine in zip(found, lost, strict=True):
        at.setdefault(key(arm.runs[0]), []).append(mine)
    for run in unfinished:
        theirs = at.get(key(run), [])
        if len(theirs) == 1:
            theirs[0][run.get("seed")] = run
    return [_lacking(arm, mine) for arm, mine in zip(found, lost, strict=True)]


def _lacking(arm: Arm, lost: dict[Any, Result]) -> Arm:
    known = {run.get("seed") for run in arm.runs}
    lost = {seed: run for seed, run in lost.items() if seed not in known}
    if not lost:
        return arm
    each = ", ".join(f"seed {seed} {run['status']}" for seed, run in lost.items())
    note = (
        f"{arm.name}: {len(lost)} of {len(lost) + len(known)} seeds did not complete ({each}); "
        "the mean is over the others"
    )
    return replace(arm, lost=list(lost.values()), notes=(*arm.notes, note))


def value_of(run: Result, key: str, runs: list[Result]) -> str:
    """A key of result.json (strategy, model ...) or of the config (strategy.rank)."""
    if key in run and isinstance(run[key], str | int | float | bool):
        return str(run[key])
    known = settings(run)
    if key in known:
        return known[key]
    everywhere = {name for one in runs for name in settings(one)}
    if key not in everywhere:
        facts = [k for k, v in run.items() if isinstance(v, str | int)]
        raise UserError(f"--by: no run has {key}; {did_you_mean(key, {*everywhere, *facts})}")
    return "-"


def _arm(name: str, members: list[Result]) -> Arm:
    """The same run twice is no second draw: the later one counts."""
    notes = []
    latest: dict[Any, Result] = {}
    for run in sorted(members, key=_when):
        latest[run.get("seed"), _identity(run)] = run
    kept = list(latest.values())
    apart = differences(members)
    if len({run.get("seed") for run in kept}) < len(kept):
        raise UserError(_mixed(name, kept))
    if apart:
        said = "; ".join(f"{key} {', '.join(dict.fromkeys(v))}" for key, v in apart.items())
        notes.append(f"{name}: its runs differ in more than the seed ({said})")
    if len(kept) < len(members):
        repeats = len(members) - len(kept)
        notes.append(f"{name}: {repeats} of its runs repeat a seed; the latest of each counts")
    return Arm(name, sorted(kept, key=lambda run: str(run.get("seed"))), notes=tuple(notes))


def _mixed(name: str, runs: list[Result]) -> str:
    """Why runs of one seed are no arm: they are neither repeats nor further draws."""
    seed = Counter(run.get("seed") for run in runs).most_common(1)[0][0]
    found = differences([run for run in runs if run.get("seed") == seed])
    keys = list(found)[:MOST_KEYS]
    what = "; ".join(f"{key} {', '.join(dict.fromkeys(found[key]))}" for key in keys)
    if not keys:
        return f"--by: runs of {name} with seed {seed} read other train rows; leave out --by"
    return (
        f"--by: runs of {name} with seed {seed} differ in more than the seed ({what}), so their "
        f"mean is no strategy's; add {','.join(keys)} to --by, or leave it out"
    )


def _when(run: Result) -> tuple[float, str]:
    """When a run ended, by its own record or that of its file."""
    folder = str(run.get("folder", ""))
    file = Path(folder) / FILE
    ended = run.get("ended") or (file.stat().st_mtime if folder and file.is_file() else 0.0)
    return float(ended), folder
