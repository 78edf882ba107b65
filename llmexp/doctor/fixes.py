"""The remedy that a sentence of ours names, as something to type."""

from __future__ import annotations

import re
from collections.abc import Mapping

KEY = r"[a-z_]+(?:\.\w+)*"


def fix_in(message: str, given: Mapping[str, str] | None = None) -> str:
    """The nearest word, an override or a command out of a message; `given` are the overrides."""
    found = re.match(rf"(?:[^:]+: )?({KEY})(?:=\S+?)?: ", message)
    key = found[1] if found else ""
    near = re.search(r"did you mean (\S+)\?", message)
    if near and key:
        return _renamed(key, near[1], message, given or {})
    if key and "nothing is accepted" in message:
        return f"leave {key} out"
    if "quote values that hold" in message:
        return "\"KEY='VALUE'\", with both kinds of quotation marks"
    known = re.search(r"known are (.+)$", message)
    if known and key:
        return f"{key}=<one of {known[1]}>"
    return _advised(message) or _expected(key, message)


def _renamed(key: str, near: str, message: str, given: Mapping[str, str]) -> str:
    """The override with the nearest word: as its key where the key was unknown, else its value."""
    unknown = "unknown key" in message or "there is no key" in message
    if not unknown:
        return f"{key}={near}"
    parent, dot, _ = key.rpartition(".")
    inline = re.search(rf"{re.escape(key)}=(\S+?): ", message)
    value = inline[1] if inline else given.get(key, "VALUE")
    return f"{parent}{dot}{near}={value}"


def _advised(message: str) -> str | None:
    """The command or override in a message's advice, which stands behind its last semicolon."""
    advice = message.rpartition("; ")[2]
    command = re.search(r"((?:hf|pip) (?:download|install|auth) .+)$", message)
    if command:
        return command[1]
    for part in (advice, message):
        overrides = re.findall(rf"(?<![\w.+])({KEY}=[^\s;,)]+)", part)
        if overrides:
            return str(overrides[0]).rstrip(".")
    return advice if advice != message else None


def _expected(key: str, message: str) -> str:
    wanted = re.search(r"(?:should|must) be (.+?)(?:, not |$)", message)
    if wanted and key:
        return f"{key}=<{wanted[1]}>"
    return f"{key}=VALUE" if key else message
