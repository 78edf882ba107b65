"""How a run ended, as a status and a sentence: every exit of `run` goes through here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmexp.errors import Diverged, NoSpace, UserError

if TYPE_CHECKING:
    from llmexp.jobs.record import Record


class Stopped(BaseException):
    """The run was asked to stop; `status` is interrupted or preempted.

    No `Exception`: it is raised from a signal handler, anywhere, and no library may swallow it.
    """

    def __init__(self, status: str, reason: str):
        self.status = status
        super().__init__(reason)


@contextmanager
def recorded(record: Record) -> Iterator[None]:
    """Write status and reason into `result.json` however the block ends."""
    try:
        yield
    except UserError as error:
        record.close("failed", str(error))
        raise
    except Diverged as error:
        _close(record, "diverged", str(error))
    except NoSpace as error:
        _close(record, "failed", str(error))
    except Stopped as stop:
        _close(record, stop.status, str(stop))
    except KeyboardInterrupt:
        _close(record, "interrupted", "stopped by Ctrl-C")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            record.fail(error)
            raise
        _close(record, "out_of_memory", _memory_advice(record))
    except Exception as error:
        record.fail(error)
        raise


def _close(record: Record, status: str, reason: str) -> None:
    from llmexp import console

    record.close(status, reason)
    if record.writes:
        console.stopped(record.result, record.folder)
    raise SystemExit(exit_code(status))


def exit_code(status: str) -> int:
    from llmexp.jobs.results import EXIT_CODES

    return EXIT_CODES[status]


def _is_out_of_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate" in said


def _memory_advice(record: Record) -> str:
    rows, tokens = record.task.batch_size, record.task.tokens_per_batch
    name, size = ("batch_size", rows) if tokens is None else ("tokens_per_batch", tokens)
    return (
        f"out of memory at data.{name}={size}; try data.{name}={max(1, size // 2)} "
        "trainer.accumulate_grad_batches=2, a smaller data.max_length, or "
        "model.gradient_checkpointing=true"
    )
