"""What the doctor found: facts in sections, findings with the override that mends each."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmexp.configure.refusals import key_of
from llmexp.doctor.fixes import fix_in
from llmexp.errors import ConfigError, UserError

Level = Literal["warning", "fails"]
EXIT_CODES = {"ok": 0, "warning": 0, "fails": 2}


@dataclass(frozen=True)
class Finding:
    """Something a person should act on."""

    id: str
    level: Level
    message: str
    fix: str | None
    """The override that mends it, or the command; None where the message says what a person must
    do."""


def given(overrides: list[str]) -> dict[str, str]:
    """What a command line says, by key."""
    return {key_of(line): line.partition("=")[2] for line in overrides}


def said(error: Exception) -> str:
    """An error nobody planned for: its kind, its first line, and the line of code it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[0] if lines else ''}{at}"


@dataclass
class Report:
    """Everything about one experiment; a section that could not be looked at is missing."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    overlap: dict[str, Any] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    """What the command line says, by key."""
    sections: dict[str, Any] = field(default_factory=dict)
    """Facts by section: experiment, rows, tokens, training ..."""

    @property
    def verdict(self) -> str:
        levels = {finding.level for finding in self.findings}
        return "fails" if "fails" in levels else "warning" if levels else "ok"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def add(self, id: str, level: Level, message: str, fix: str | None) -> None:
        """What fails stands before what only deserves a look; what two stages say is said once."""
        if message in {finding.message for finding in self.findings}:
            return
        self.findings.append(Finding(id, level, message, fix))
        self.findings.sort(key=lambda finding: finding.level != "fails")

    @contextmanager
    def stage(self, id: str) -> Iterator[None]:
        """Whatever goes wrong inside ends the stage as a finding, not the doctor."""
        try:
            yield
        except ConfigError as error:
            for complaint in error.complaints:
                self.add(id, "fails", complaint, fix_in(complaint, self.given))
        except UserError as error:
            self.add(id, "fails", str(error), fix_in(str(error), self.given))
        except Exception as error:
            # A library may raise anything; the run would end by it too, and the rest can be told.
            self.add(id, "fails", f"the stage {id} broke: {said(error)}", None)

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "overlap": self.overlap,
            "name": self.name,
            **self.sections,
        }
