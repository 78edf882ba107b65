"""What of the network trains, shown by one forward and backward."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import nn

from llmexp.config import RunConfig
from llmexp.context import Context
from llmexp.doctor import gradients, verdicts_training
from llmexp.doctor.parameters import adapted_layers, parameters
from llmexp.doctor.report import Report
from llmexp.errors import Diverged


class Training:
    """Freezing as the strategy means it, then gradients of a step on the run's accelerator."""

    def __init__(self, report: Report, context: Context, config: RunConfig):
        self.report, self.context = report, context
        self.where = gradients.place(config)
        if "hardware" in {finding.id for finding in report.findings}:
            # What was asked for is not here, which is said: look with what is.
            self.where["accelerator"] = "auto"
        self.section: dict[str, Any] = {"trains": context.strategy.trains}

    def look(self) -> None:
        few, net, fixed = gradients.small(self.context), None, set[str]()
        with self.report.stage("model"):
            pl.seed_everything(self.context.seed, verbose=False)
            self.section["adapters"] = adapted_layers(self.context)
            self.section["shapes_only"] = gradients.is_large(self.context)
            net, fixed = gradients.network(few)
            self.section["parameters"] = parameters(net)
            self.report.sections["training"] = self.section
        if net is not None:
            with self.report.stage("training"):
                self._judge(net, few, fixed)
                verdicts_training.training(self.report)

    def _judge(self, net: nn.Module, few: Context, fixed: set[str]) -> None:
        declared = few.strategy.meant(net, few)
        self.section["declared"] = declared is not None
        trained = {name for name, p in net.named_parameters() if p.requires_grad}
        meant = trained if declared is None else declared - fixed
        self.section["gradients"] = gradients.judged(net, meant)
        if not trained or self.section["shapes_only"]:
            return
        silent = few.strategy.silent_at_first(net)
        try:
            step = gradients.one_step(net, few, self.where)
        except Diverged as error:
            verdicts_training.diverged(self.report, error, few, self.where)
        else:
            self.section["gradients"] |= gradients.after_a_step(net, meant, step, silent)
