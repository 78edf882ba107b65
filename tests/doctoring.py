"""The doctor in this process: its report on an experiment, and findings by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.doctor.examine import examine
from llmexp.doctor.report import Report
from tests import tiny


def looked_at(*overrides: str) -> Report:
    (job,) = compose_jobs(open_keys(list(overrides)), "run", None, False)
    return examine(job)


def ids(report: Report) -> list[str]:
    return [finding.id for finding in report.findings]


def of(report: Report, id: str) -> Any:
    return next(finding for finding in report.findings if finding.id == id)


def models(folder: Path) -> dict[str, list[str]]:
    """Overrides that name a tiny encoder and a tiny decoder."""
    made = {"bert": tiny.bert(folder / "bert", labels=3), "llama": tiny.llama(folder / "llama")}
    more = ["tracking=none", "hardware=cpu"]
    return {name: ["model=local", f"model.path={path}", *more] for name, path in made.items()}
