"""What the doctor found: facts in sections, findings with the override that mends each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmexp.errors import ConfigError, UserError

Level = Literal["warning", "fails"]
EXIT_CODES = {"ok": 0, "warning": 0, "fails": 2}


@dataclass(frozen=True)
class Finding:
    """Something a person should act on."""

    id: str
    level: Level
    message: str
    fix: str
    """The override that mends it; what to do where no override can."""


@dataclass
class Report:
    """Everything about one experiment; a section that could not be looked at is missing."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    overlap: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    """Facts by section: experiment, rows, tokens, training ..."""

    @property
    def verdict(self) -> str:
        levels = {finding.level for finding in self.findings}
        return "fails" if "fails" in levels else "warning" if levels else "ok"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def add(self, id: str, level: Level, message: str, fix: str) -> None:
        self.findings.append(Finding(id, level, message, fix))

    @contextmanager
    def stage(self, id: str) -> Iterator[None]:
        """A user's mistake inside ends the stage as a finding, not the doctor."""
        try:
            yield
        except ConfigError as error:
            for complaint in error.complaints:
                self.add(id, "fails", complaint, fix_in(complaint))
        except UserError as error:
            self.add(id, "fails", str(error), fix_in(str(error)))

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "overlap": self.overlap,
            "name": self.name,
            **self.sections,
        }


def fix_in(message: str) -> str:
    """The first remedy a message names: the nearest word, an override, a command."""
    wrong = re.search(r"(?:^|: )([a-z_]+(?:\.\w+)*)(?:=\S+)?: ", message)
    near = re.search(r"did you mean (\S+)\?", message)
    if near and wrong:
        parent, dot, _ = wrong[1].rpartition(".")
        value = re.search(r"=(\S+?):? ", message)
        path = "=" not in near[1] and "/" not in near[1]
        unknown = "no key" in message or "unknown key" in message
        if path and unknown:
            return f"{parent}{dot}{near[1]}={value[1] if value else 'VALUE'}"
        return f"{wrong[1]}={near[1]}"
    advice = message.rpartition("; ")[2] if "; " in message else message
    command = re.search(r"((?:hf|pip) (?:download|install) .+)$", advice)
    if command:
        return command[1]
    for part in (advice, message):
        given = re.findall(r"(?<![\w.])([a-z_]+(?:\.\w+)*=[^\s;,)]+)", part)
        if given:
            return str(given[0]).rstrip(".")
    return advice
