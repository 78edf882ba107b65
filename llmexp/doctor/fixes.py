"""The remedy that a sentence of ours names, as something to type."""

from __future__ import annotations

import re
from collections.abc import Mapping

KEY = r"[a-z_]+(?:\.\w+)*"


def fix_in(message: str, given: Mapping[str, str] | None = None) -> str | None:
    """The nearest word, an override or a command out of a message; `given` are the overrides."""
    found = re.match(rf"(?:[^:]+: )?({KEY})(?:=\S+?)?: ", message)
    key = found[1] if found else ""
    near = re.search(r"did you mean (\S+)\?", message)
    if near and key:
        return _renamed(key, near[1], message, given or {})
    if key and "nothing is accepted" in message:
        return f"leave out {key}"
    known = re.search(r"known are (.+)$|is neither one of (.+?) nor ", message)
    if known and key:
        return f"{key}=<one of {known[1] or known[2]}>"
    return _advised(key, message, given or {}) or _expected(key, message)


def _renamed(key: str, near: str, message: str, given: Mapping[str, str]) -> str | None:
    """The override with the nearest word: as its key where the key was unknown, else its value."""
    unknown = "unknown key" in message or "there is no key" in message
    if not unknown:
        return f"{key}={near}"
    parent, dot, _ = key.rpartition(".")
    inline = re.search(rf"{re.escape(key)}=(\S+?): ", message)
    value = inline[1] if inline else given.get(key)
    return None if value is None else f"{parent}{dot}{near}={value}"


def _advised(key: str, message: str, given: Mapping[str, str]) -> str | None:
    """The command or override in a message's advice, which stands behind its last semicolon."""
    advice = message.rpartition("; ")[2]
    command = re.search(r"((?:hf|pip) (?:download|install|auth) .+)$", message)
    if command:
        return command[1]
    for part in (advice, message):
        for found in re.findall(rf"(?<![\w.+])({KEY}=[^\s;,)]+)", part):
            name, _, value = str(found).rstrip(".").partition("=")
            if key.startswith(f"{name}.") and key in given:
                # Another file of the group would not outdo a value that is given beside it.
                return f"leave out {key}"
            if value != "VALUE" and given.get(name) != value:
                return f"{name}={value}"
    return None


def _expected(key: str, message: str) -> str | None:
    wanted = re.search(r"(?:should|must) be (.+?)(?:, not |$)", message)
    if wanted and key:
        names = re.findall(r"'([^']*)'", wanted[1])
        return f"{key}=<one of {', '.join(names)}>" if names else f"{key}=<{wanted[1]}>"
    return None
