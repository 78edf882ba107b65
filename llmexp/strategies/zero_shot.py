from __future__ import annotations

from typing import TYPE_CHECKING

from llmexp.config import spec
from llmexp.strategies.prompting import Prompting

if TYPE_CHECKING:
    from llmexp.models import HFModel
    from llmexp.tasks.base import Task


@spec
class ZeroShot(Prompting):
    """The pretrained model answers without having seen an example."""

    def unread(self, model: HFModel, task: Task) -> dict[str, str]:
        found = Prompting.unread(self, model, task)
        return found | {"seed": "nothing is drawn: no weight is new and no example is chosen"}
