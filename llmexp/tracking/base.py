from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmexp.config import spec

if TYPE_CHECKING:
    from pathlib import Path

    import pytorch_lightning as pl

    from llmexp.configure.preflight import Experiment
    from llmexp.context import Context


@spec
class Tracking:
    """A tracker: a Lightning logger for the curves, and a last word when the run ends."""

    def check(self) -> list[str]:
        """Complaints that need no network, before anything is loaded."""
        return []

    def unread(self) -> dict[str, str]:
        """Keys of the experiment that only a tracker would read and this one does not, and why."""
        return dict.fromkeys(("objective", "tags"), "this tracker shows neither")

    def logger(self, experiment: Experiment, context: Context) -> Any:
        """A Lightning logger, or False; called once in every process of the run."""
        raise NotImplementedError

    def callbacks(self, folder: Path) -> list[pl.Callback]:
        """What it wants to be told of beside curves; called after `logger`.

        A process that goes on with a run tells first what happened before it.
        """
        from llmexp.callbacks.resend import Resend

        return [Resend(folder, self.known())] if begun(folder) else []

    def known(self) -> int:
        """The last step that it knows of from earlier processes of the run."""
        return -1

    def finish(self, result: dict[str, Any], module: Any | None) -> None:
        """The run has ended and `result.json` is written; first process only.

        `module` holds the test's answers; None where the run did not get that far. Loggers get the
        numbers of `result.json` under the keys they have there.
        """
        if module is None:
            return
        for logger in module.trainer.loggers:
            logger.log_metrics(numbers(result), step=module.trainer.global_step)
            logger.save()
            logger.finalize("success" if result["status"] == "completed" else "failed")


def begun(folder: Path) -> bool:
    """Whether an earlier process of this run has trained already."""
    return (folder / "metrics.jsonl").is_file()


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `result.json`: metrics under the same keys, the rest under their group."""
    flat = dict(result["metrics"])
    for group in ("baseline", "cost", "examples"):
        flat |= {f"{group}/{key}": value for key, value in result[group].items()}
    return {key: value for key, value in flat.items() if isinstance(value, int | float)}


@spec
class NoTracking(Tracking):
    """Nobody watches."""

    def logger(self, experiment: Experiment, context: Context) -> Any:
        return False
