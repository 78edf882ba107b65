from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmexp.config import spec
from llmexp.tracking.base import Tracking

if TYPE_CHECKING:
    from llmexp.configure.preflight import Experiment
    from llmexp.context import Context


@spec
class CSV(Tracking):
    """Curves in the run's `csv/metrics.csv`, a column for each key."""

    def logger(self, experiment: Experiment, context: Context) -> Any:
        from pytorch_lightning.loggers import CSVLogger

        return CSVLogger(context.folder, name="csv", version="")
