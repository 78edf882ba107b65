"""What is different about a config since its run was begun, and what of that may be."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llmexp.errors import UserError, shown
from llmexp.jobs.results import read_result

# Keys that change no weight, no metric and no answer; an asterisk stands for all below.
HARMLESS = (
    "name",
    "resume",
    "dry",
    "preview",
    "objective",
    "tags",
    "choices.*",
    "tracking.*",
    "cache.dir",
    "cache.max_gb",
    "data.num_workers",
    "trainer.log_every_n_steps",
    "trainer.enable_model_summary",
    "trainer.profiler*",
    "callbacks.checkpoint.every_n_train_steps",
    "callbacks.checkpoint.every_minutes",
)
ABSENT = object()


def check(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Show what differs; refuse to go on with a run that would not be the one that was begun."""
    for key, said in differences(before, now).items():
        if is_harmless(key):
            print(f"resume: {key}: {said}, which changes no result", flush=True)
    if has_results(folder):
        refuse(folder, serious(before, now))


def serious(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """The differences that make another run of it."""
    return {k: said for k, said in differences(before, now).items() if not is_harmless(k)}


def refuse(folder: Path, found: dict[str, str]) -> None:
    """One sentence where anything serious is different."""
    if found:
        listed = "; ".join(f"{key}: {said}" for key, said in found.items())
        raise UserError(
            f"{folder} was begun with another config and would not be the same run: {listed}; "
            "resume it as it was (llmexp resume), or choose another hydra.run.dir"
        )


def refuse_inputs(folder: Path, before: dict[str, str], now: dict[str, str]) -> None:
    """One sentence where what was read, by its hashes, is not what it was."""
    other = [name for name, found in now.items() if before.get(name) != found]
    if other:
        raise UserError(
            f"{folder} was begun with other contents of {', '.join(other)} and would not be the "
            "same run; put back what was there, or choose another hydra.run.dir"
        )


def has_results(folder: Path) -> bool:
    """Whether something is there that another config would not have made."""
    saved = any((folder / "checkpoints").glob("*.ckpt"))
    return saved or read_result(folder).get("status") == "completed"


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """`old -> new` for every key whose value is not the same."""
    one, other = flat(before), flat(now)
    changed = [k for k in one | other if one.get(k, ABSENT) != other.get(k, ABSENT)]
    return {key: f"{_told(one, key)} -> {_told(other, key)}" for key in sorted(changed)}


def is_harmless(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in HARMLESS)


def flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{above}{name}"
        if isinstance(value, dict) and value:
            found |= flat(value, f"{key}.")
        else:
            found[key] = value
    return found


def _told(values: dict[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "(not there)"
