"""One experiment looked at from all sides without training it: reads aloud as its report does."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmexp.config import RunConfig
from llmexp.configure.composed import Composed
from llmexp.configure.preflight import GROUPS, Experiment, build, build_group
from llmexp.context import Context, context_of
from llmexp.data.check import quick_check
from llmexp.data.sources import load_examples
from llmexp.doctor import verdicts, verdicts_data, verdicts_tokens
from llmexp.doctor.knobs import as_rows, dead_knobs
from llmexp.doctor.origins import Origins
from llmexp.doctor.overlap import duplicates, overlap
from llmexp.doctor.report import Report, given
from llmexp.doctor.sources import read_sources
from llmexp.tasks.base import Examples, Task


def examine(job: Composed, config_name: str = "run") -> Report:
    """Everything that can be said about an experiment; what cannot be reached is a finding."""
    report = Report(str(job.tree["name"]), given=given(job.overrides))
    experiment: Experiment | None = None
    with report.stage("config"):
        experiment = build(job.tree, job.where)
    specs: dict[str, Any] = {}
    with report.stage("experiment"):
        specs |= {g: build_group(job.tree.get(g), g, job.where, []) for g in GROUPS}
        values(report, experiment, specs, Origins(job, config_name))
    if experiment is not None:
        devices(report, experiment)
    task = specs.get("data")
    if task is None or quick_check(task):
        return report
    examples = rows(report, task)
    if experiment is not None and examples is not None:
        context = None
        with report.stage("model"):
            context = context_of(experiment, Path(tempfile.gettempdir()), examples)
            experiment.strategy.check_targets(context)
        if context is not None:
            tokens(report, context)
            training(report, context, experiment.config)
    return report


def values(report: Report, e: Experiment | None, specs: dict[str, Any], origins: Origins) -> None:
    """Every value with where it came from, and those that were set and that nothing reads."""
    report.sections["experiment"] = origins.values(specs)
    if e is not None:
        found = dead_knobs(e, origins)
        report.sections["dead_knobs"] = as_rows(found)
        verdicts.dead(report, found)


def devices(report: Report, e: Experiment) -> None:
    """Whether the machine has what the run asks for."""
    from llmexp.hardware import check_devices, hide_gpus
    from llmexp.nets import attention, compilation

    with report.stage("hardware"):
        hide_gpus(e.config.hardware)
        check_devices(e.config.hardware)
        attention.check_here(e.model.attention)
        compilation.check_here(e.model.compile is True and e.strategy.trains, e.config.hardware)


def rows(report: Report, task: Task) -> Examples | None:
    """The data as text: sources, splits, labels, duplicates, overlap."""
    examples: Examples | None = None
    with report.stage("data"):
        sources = read_sources(task)
        report.sections["sources"] = [source.as_json() for source in sources]
        for source in sources:
            verdicts_data.source(report, task, source)
        # A bad row is a finding by now; the rest of the rows can still be looked at.
        rest = replace(task, on_bad_row="skip", max_bad_rows=sum(len(s.bad) for s in sources))
        examples = load_examples(rest)
    if examples is not None:
        with report.stage("data"):
            splits(report, task, examples)
    return examples


def splits(report: Report, task: Task, examples: Examples) -> None:
    """Rows of each split: how many, twice on one side or on both, and how many of each label."""
    found = {"train": examples.train, "validation": examples.validation, "test": examples.test}
    report.sections["rows"] = {
        name: {"rows": len(rows), **duplicates(rows)} for name, rows in found.items()
    }
    labels = Counter(row["label"] for row in examples.train if "label" in row)
    report.sections["labels"] = {name: labels[name] for name in examples.labels}
    report.sections["notes"] = examples.notes
    # What validation carves off was train, and it chooses the checkpoint that is tested.
    carved = examples.validation if task.validation is None else []
    report.overlap = overlap([*examples.train, *carved], examples.test)
    if examples.stream is not None:
        # Of the first rows alone.
        report.overlap["complete"] = False
    verdicts_data.splits(report, task)
    verdicts_data.balance(report, task)


def tokens(report: Report, context: Context) -> None:
    """The data as the network sees it: each split whole, a sample of train for a closer look."""
    from llmexp.doctor.examples import shown
    from llmexp.doctor.splits import Split
    from llmexp.doctor.tokens import Sample

    with report.stage("tokens"):
        splits = [Split(context, name) for name in Split.names if getattr(context.examples, name)]
        report.sections["splits"] = {split.name: split.as_json() for split in splits}
        for split in splits:
            verdicts_tokens.split(report, split)
        verdicts_tokens.budget(report, splits[0])
        if splits[0].left.rows:
            sample = Sample(context, splits[0])
            report.sections["tokens"] = sample.as_json()
            report.sections["examples"] = shown(sample.encoded.rows, context)
            verdicts_tokens.tokens(report, splits[0])


def training(report: Report, context: Context, config: RunConfig) -> None:
    """What of the network trains, shown by one forward and backward where the run would be."""
    from llmexp.doctor.training import Training

    Training(report, context, config).look()
