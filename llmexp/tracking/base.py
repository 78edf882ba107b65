from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmexp.config import spec

if TYPE_CHECKING:
    from llmexp.configure.preflight import Experiment
    from llmexp.context import Context


@spec
class Tracking:
    """A tracker: a Lightning logger for the curves, and a last word when the run ends."""

    def check(self) -> list[str]:
        """Complaints that need no network, before anything is loaded."""
        return []

    def logger(self, experiment: Experiment, context: Context) -> Any:
        """A Lightning logger, or False; called once in every process of the run."""
        raise NotImplementedError

    def finish(self, result: dict[str, Any], module: Any | None) -> None:
        """The run has ended and `result.json` is written; first process only.

        `module` holds the test's answers; None where the run did not get that far.
        """


@spec
class NoTracking(Tracking):
    """Nobody watches."""

    def logger(self, experiment: Experiment, context: Context) -> Any:
        return False
