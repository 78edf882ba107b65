"""One run, from checked specs to `result.json`. It reads aloud as docs/design.md tells it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from llmexp import console
from llmexp.configure.preflight import Experiment
from llmexp.context import Context, context_of
from llmexp.data.sources import load_examples
from llmexp.hardware import build_trainer, check_devices, cpu_notes, disband, environment
from llmexp.jobs import outcome
from llmexp.jobs.record import Record
from llmexp.jobs.signals import Signals
from llmexp.nets import attention, compilation

log = logging.getLogger("llmexp")


def run(experiment: Experiment, folder: Path, signals: Signals | None = None) -> dict[str, Any]:
    """Execute an experiment in its folder; the returned result is also `result.json`."""
    e = experiment
    check_devices(e.config.hardware)
    attention.check_here(e.model.attention)
    compilation.check_here(e.model.compile is True and e.strategy.trains, e.config.hardware)
    environment(e)
    pl.seed_everything(e.config.seed, workers=True, verbose=False)
    record = Record(e, folder, signals)
    with outcome.recorded(record), record.signals:
        record.start()
        context = prepare(e, folder)
        record.data(context.examples)
        e.strategy.check_targets(context)
        net = e.strategy.load(context)
        net = e.strategy.adapt(net, context)
        record.parameters(net)
        data = e.strategy.data(context, net)
        module = e.strategy.module(net, context)
        trainer = build_trainer(e, context, record)
        fit_and_test(trainer, module, data, record)
        record.finish(module, data, trainer)
        disband(trainer, module)
        if record.writes:
            e.strategy.export(module, context)
        record.complete()
    if record.writes:
        console.summary(record.result, folder)
    return record.result


def prepare(e: Experiment, folder: Path) -> Context:
    """Read the data and the small files of the model: everything that can be wrong but weights."""
    examples = load_examples(e.task)
    examples.notes += cpu_notes(e)
    for note in examples.notes:
        log.info(note)
    return context_of(e, folder, examples)


def fit_and_test(trainer: pl.Trainer, module: Any, data: Any, record: Record) -> None:
    """Train if the strategy trains, else validate what is there; then test the best weights."""
    if module.context.strategy.trains:
        trainer.fit(module, datamodule=data, ckpt_path=record.checkpoint)
        module.restore_best(trainer)
    else:
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.test(module, datamodule=data, verbose=False)
