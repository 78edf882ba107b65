"""What was measured, written at once: a session that is cut off loses one round at most."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contest.agenda import Contest
from contest.sides import Report
from contest.works import Sizes


class Ledger:
    """A file of lines, one a contestant's turn; only rounds that are whole count."""

    def __init__(self, path: Path, sizes: Sizes):
        self.path = path
        self.sizes = asdict(sizes)

    def lines(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def add(self, contest: Contest, k: int, name: str, report: Report) -> None:
        line = {"contest": contest.title, "number": contest.number, "round": k, "name": name}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "sizes": self.sizes, "report": report}) + "\n")

    def forget(self, contests: list[Contest]) -> None:
        """Drop what was measured for these at these sizes."""
        titles = {contest.title for contest in contests}
        kept = [x for x in self.lines() if x["contest"] not in titles or x["sizes"] != self.sizes]
        if self.path.is_file():
            self.path.write_text("".join(json.dumps(x) + "\n" for x in kept), encoding="utf-8")

    def rounds(self, contest: Contest) -> dict[int, dict[str, Report]]:
        """By number, the reports of each round; a later turn of the same replaces an earlier."""
        found: dict[int, dict[str, Report]] = {}
        for line in self.lines():
            if line["contest"] == contest.title and line["sizes"] == self.sizes:
                found.setdefault(line["round"], {})[line["name"]] = line["report"]
        return found
