"""Runs that differ in nothing but the seed, as one thing with several draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmexp.compare.settings import differences, settings
from llmexp.errors import UserError, did_you_mean
from llmexp.jobs.results import FILE

Result = dict[str, Any]

# Of what differs, so many keys are named.
MOST_KEYS = 3


@dataclass(frozen=True)
class Arm:
    """One way of using a model: its runs, one a seed, by seed."""

    name: str
    runs: list[Result]
    notes: tuple[str, ...] = ()
    """What a reader must know about how they were gathered."""

    @property
    def seeds(self) -> int:
        return len(self.runs)

    def mean(self, node: str, key: str) -> float | None:
        """Of a number in result.json, over the runs that have it."""
        found = [run[node][key] for run in self.runs if run[node].get(key) is not None]
        return sum(found) / len(found) if found else None


def arms(runs: list[Result], by: list[str] | None = None) -> list[Arm]:
    """In order of first appearance; `by` names keys whose equality is enough."""
    apart: dict[Any, list[Result]] = {}
    for run in runs:
        key = tuple(value_of(run, name, runs) for name in by) if by else _identity(run)
        apart.setdefault(key, []).append(run)
    names = [_joined(key) for key in apart] if by else _names(list(apart.values()))
    return [_arm(name, members) for name, members in zip(names, apart.values(), strict=True)]


def _identity(run: Result) -> tuple[Any, ...]:
    """Everything that can change a number, the train rows included; not the seed."""
    rows = tuple(sorted(run.get("fingerprint", {}).items()))
    shown = tuple(str(run.get(key)) for key in ("strategy", "model", "data"))
    return (*shown, rows, *sorted(settings(run).items()))


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


def _joined(values: tuple[str, ...]) -> str:
    return " ".join(values)


def _names(members: list[list[Result]]) -> list[str]:
    """The strategy, and what else tells an arm from the others of that name."""
    firsts = [runs[0] for runs in members]
    names = [str(run.get("strategy", "?")) for run in firsts]
    for key in ("model", "data"):
        if len({run.get(key) for run in firsts}) > 1:
            names = [f"{n} {run.get(key)}" for n, run in zip(names, firsts, strict=True)]
    return [_told_apart(i, names, firsts) for i in range(len(names))]


def _told_apart(i: int, names: list[str], firsts: list[Result]) -> str:
    alike = [k for k, name in enumerate(names) if name == names[i]]
    if len(alike) == 1:
        return names[i]
    at = alike.index(i)
    keys = differences([firsts[k] for k in alike])
    said = [f"{k.rpartition('.')[2]}={values[at]}" for k, values in list(keys.items())[:3]]
    return " ".join([names[i], *said]) if said else f"{names[i]} #{at + 1}"


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
    return Arm(name, sorted(kept, key=lambda run: str(run.get("seed"))), tuple(notes))


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
