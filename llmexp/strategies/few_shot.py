"""In-context examples (Brown et al. 2020), or class centroids of them (Snell et al. 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmexp.config import PositiveInt, RunConfig, spec
from llmexp.exemplars import Exemplars, Selection, choose
from llmexp.strategies.prompting import Prompting
from llmexp.tasks.language_modeling import LanguageModeling

if TYPE_CHECKING:
    from llmexp.context import Context
    from llmexp.models import HFModel
    from llmexp.tasks.base import Task

SHOWN = 32


@spec
class FewShot(Prompting):
    """The pretrained model answers after having seen `k` train rows per class, or in all."""

    k: PositiveInt
    """Per class; in all where there are no classes."""
    selection: Selection
    """balanced: k of each class. random: as many in all, whatever their class. nearest: k of each
    class, those most similar to the query in embedding space."""

    def check(self, model: HFModel, task: Task, config: RunConfig) -> list[str]:
        found = Prompting.check(self, model, task, config)
        if isinstance(task, LanguageModeling):
            found.append(
                "strategy: plain text has no questions and answers to show as examples; use "
                "strategy=zero_shot, or data=instruction"
            )
        return found

    def exemplars(self, context: Context) -> Exemplars:
        return choose(context.examples, self.k, self.selection, context.seed)

    def check_targets(self, context: Context) -> None:
        chosen = self.exemplars(context)
        if chosen.nearest is not None:
            each = " of each class" if context.examples.labels else ""
            said = f"for each query the {self.k} nearest{each} in train"
        else:
            rows = ", ".join(map(str, chosen.indices[:SHOWN]))
            more = len(chosen.indices) - SHOWN
            said = f"train rows {rows}" + (f" and {more} more" if more > 0 else "")
        context.examples.notes.append(f"examples shown ({self.selection}, k={self.k}): {said}")
