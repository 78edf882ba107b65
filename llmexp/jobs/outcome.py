"""How a run ended, as a status and a sentence: every exit of `run` goes through here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmexp.errors import Diverged, NoSpace, OutOfMemory, UserError
from llmexp.jobs import advice, slurm
from llmexp.jobs.results import EXIT_CODES, is_full

if TYPE_CHECKING:
    from llmexp.jobs.record import Record


class Stopped(BaseException):
    """The run was asked to stop; `status` is interrupted or preempted.

    No `Exception`: it is raised from a signal handler, anywhere, and no library may swallow it.
    """

    def __init__(self, status: str, reason: str, number: int):
        self.status = status
        self.number = number
        """The signal that asked."""
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
        _close(record, stop.status, str(stop) + slurm.requeued(stop.number, record.config.resume))
    except KeyboardInterrupt:
        _close(record, "interrupted", "stopped by Ctrl-C")
    except Exception as error:
        if is_out_of_memory(error):
            _close(record, "out_of_memory", advice.memory(record, error))
        if met_full_disk(error):
            _close(record, "failed", advice.room(record.folder, error))
        said = advice.lost_worker(record, error)
        if said is not None:
            _close(record, "failed", said)
        record.fail(error)
        if record.result["status"] != "failed":
            raise SystemExit(exit_code(record.result["status"])) from error
        raise


def _close(record: Record, status: str, reason: str) -> None:
    from llmexp import console

    record.close(status, reason)
    if record.writes:
        console.stopped(record.result, record.folder)
    else:
        print(f"{status}: {reason}", file=sys.stderr)
    raise SystemExit(exit_code(status))


def met_full_disk(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error; clearing up after one fails in other ways."""
    while error is not None and not is_full(error):
        error = error.__cause__ or error.__context__
    return error is not None


def exit_code(status: str) -> int:
    return EXIT_CODES[status]


NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")


def is_out_of_memory(error: BaseException | None) -> bool:
    """What Python, torch's CPU allocator and its CUDA allocator raise."""
    if error is None or isinstance(error, (MemoryError, OutOfMemory)):
        return error is not None
    said = str(error).lower()
    # oneDNN names no cause; under a memory limit this is what it says (tests/test_memory.py).
    told = any(words in said for words in NO_MEMORY)
    # `torch.OutOfMemoryError` and the CPU allocator's error are RuntimeErrors; so is cuBLAS's.
    return isinstance(error, RuntimeError) and (told or "cublas_status_alloc_failed" in said)
