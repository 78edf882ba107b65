"""Every mistake a user can make ends as one of these: a sentence, never a trace."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """A mistake outside the program: what is wrong, where, and what would work. Exit code 2."""


class ConfigError(UserError):
    """All complaints about one configuration, gathered before anything is done."""

    def __init__(self, complaints: Iterable[str]):
        self.complaints = list(dict.fromkeys(complaints))
        super().__init__("\n".join(self.complaints))


class Diverged(Exception):
    """The loss or a gradient is not finite; raised before the optimizer step. Exit code 3."""


class OutOfMemory(Exception):
    """Memory does not suffice, and no smaller part of a batch can be tried. Exit code 4."""

    def __init__(self, reason: str, single: bool):
        self.single = single
        """Whether a batch of one row is too large, so that a smaller batch is no advice."""
        super().__init__(reason)


class NoSpace(Exception):
    """A checkpoint does not fit on the disk, with what was needed and what was there."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A closing half-sentence that names the nearest known word, or the known words."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    if len(known) > 24:
        return f"known are {', '.join(known[:24])} and {len(known) - 24} more"
    return f"known are {', '.join(known)}" if known else "nothing is accepted here"


def shown(value: Any) -> str:
    """A value as YAML writes it."""
    names: dict[Any, str] = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else repr(value)
