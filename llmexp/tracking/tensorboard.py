from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from llmexp.config import spec
from llmexp.tracking.base import Tracking, begun

if TYPE_CHECKING:
    from llmexp.configure.preflight import Experiment
    from llmexp.context import Context


@spec
class TensorBoard(Tracking):
    """Curves in the run's `tensorboard/`; look at them with: tensorboard --logdir outputs"""

    def check(self) -> list[str]:
        if importlib.util.find_spec("tensorboard") is None:
            return ["tracking: needs the package tensorboard; pip install tensorboard"]
        return []

    def logger(self, experiment: Experiment, context: Context) -> Any:
        from pytorch_lightning.loggers import TensorBoardLogger

        # Of the files that killed processes left only their beginnings are whole: TensorBoard
        # forgets them, and is told everything again.
        again: dict[str, Any] = {"purge_step": 0} if begun(context.folder) else {}
        return TensorBoardLogger(
            context.folder, name="tensorboard", version="", default_hp_metric=False, **again
        )
