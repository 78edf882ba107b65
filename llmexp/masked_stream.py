"""Standard output and error of our processes, without secrets."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from llmexp.secrets import hidden

# What writing to a pipe that nobody reads, and to a terminal that was closed, raises.
GONE = (errno.EPIPE, errno.EIO)


class MaskedStream:
    """A text stream that hides secrets in what is written to it, and is the stream otherwise."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.outlives = False
        """Whether this process goes on where nobody reads what it says any more."""

    def write(self, text: str) -> int:
        with self._outlived():
            self._stream.write(hidden(text))
        return len(text)

    def flush(self) -> None:
        with self._outlived():
            self._stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.outlives or error.errno not in GONE:
                raise
            # Also for what is in its buffer, and what a library writes past this object.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def install() -> None:
    """From here on nothing that this process prints, traces too, shows a secret."""
    out: Any = MaskedStream(sys.stdout)
    err: Any = MaskedStream(sys.stderr)
    sys.stdout, sys.stderr = out, err


def outlive_readers() -> None:
    """A run saves and says how it ended, also where `| tee log` ended of the same Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, MaskedStream):
            stream.outlives = True
