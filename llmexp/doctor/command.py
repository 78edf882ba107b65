"""`llmexp doctor OVERRIDES [--json]`: what a run with these overrides would do, without running."""

from __future__ import annotations

import argparse
import json
import logging
import os
import warnings

from llmexp.configure.composed import Composed
from llmexp.doctor.report import Report, given


def run(argv: list[str]) -> int:
    """Compose, examine and print; 2 where the run would fail."""
    from llmexp.configure.compose import compose_jobs, open_keys

    parser = argparse.ArgumentParser(prog="llmexp doctor", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="the same as of a run: strategy=lora seed=1")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--config-dir", "-cd", help="a folder of one's own YAML groups")
    parser.add_argument("--config-name", "-cn", default="run")
    args = parser.parse_args(argv)
    report = Report("experiment", given=given(args.overrides))
    jobs: list[Composed] = []
    with report.stage("config"):
        lines = open_keys(args.overrides)
        jobs = compose_jobs(lines, args.config_name, args.config_dir, False)
    if not jobs:
        return show(report, args.json)
    return preview(jobs, args.config_name, args.json)


def preview(jobs: list[Composed], config_name: str, as_json: bool = False) -> int:
    """The report on each job; the worst exit code."""
    from llmexp.doctor.examine import examine

    hush()
    return max(show(examine(job, config_name), as_json) for job in jobs)


def show(report: Report, as_json: bool) -> int:
    from llmexp.doctor.page import page

    if as_json:
        print(json.dumps(report.as_json(), ensure_ascii=False, indent=2, default=str))
    else:
        page(report)
    return report.exit_code


def hush() -> None:
    """Leave the terminal to the report."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in (
        "pytorch_lightning.utilities.rank_zero",
        "lightning_fabric.utilities.seed",
        "lightning_fabric",
        "llmexp",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    from llmexp import quiet

    quiet.libraries()
