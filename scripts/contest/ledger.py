"""What was measured, written at once: a session that is cut off loses one round at most."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from contest.agenda import Contest
from contest.machine import machine
from contest.sides import ROOT, Report
from contest.works import Sizes

FAILED = "failed"


class Ledger:
    """A file of lines, one a contestant's turn: its report, and what it was measured on.

    A contestant that failed has the report {failed: true}. A bar counts the rounds in which both of
    its sides have its measure.
    """

    def __init__(self, path: Path, sizes: Sizes):
        self.path = path
        self.sizes = asdict(sizes)

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Which code on which machine measures now."""
        from llmexp.jobs.provenance import git_state

        return {**git_state(ROOT), "machine": machine()}

    def lines(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def add(self, contest: Contest, k: int, name: str, report: Report) -> None:
        line = {"contest": contest.title, "number": contest.number, "round": k, "name": name}
        line |= {"date": datetime.now(UTC).date().isoformat(), **self.origin}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "sizes": self.sizes, "report": report}) + "\n")

    def forget(self, contests: list[Contest]) -> None:
        """Drop what was measured for these at these sizes."""
        titles = {contest.title for contest in contests}
        kept = [x for x in self.lines() if x["contest"] not in titles or x["sizes"] != self.sizes]
        if self.path.is_file():
            self.path.write_text("".join(json.dumps(x) + "\n" for x in kept), encoding="utf-8")

    def of(self, contest: Contest) -> Iterator[dict[str, Any]]:
        """The lines of one contest at these sizes."""
        for line in self.lines():
            if line["contest"] == contest.title and line["sizes"] == self.sizes:
                yield line

    def rounds(self, contest: Contest) -> dict[int, dict[str, Report]]:
        """By number, the reports of each round; a later turn of the same replaces an earlier."""
        found: dict[int, dict[str, Report]] = {}
        for line in self.of(contest):
            found.setdefault(line["round"], {})[line["name"]] = line["report"]
        return found

    def origins(self, contest: Contest) -> dict[str, list[Any]]:
        """Every commit, machine and date that its rounds have; a changed tree is `COMMIT+`."""
        found: dict[str, list[Any]] = {"commits": [], "machines": [], "dates": []}
        for line in self.of(contest):
            # A ledger of before they were written has neither.
            commit = f"{(line.get('commit') or 'unknown')[:10]}{'+' if line.get('dirty') else ''}"
            seen = (commit, line.get("machine", "unknown"), line.get("date", "unknown"))
            for values, value in zip(found.values(), seen, strict=True):
                if value not in values:
                    values.append(value)
        return found
