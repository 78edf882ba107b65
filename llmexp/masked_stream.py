"""Standard output and error of our processes, without secrets."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from llmexp.secrets import hidden


class MaskedStream:
    """A text stream that hides secrets in what is written to it, and is the stream otherwise."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(hidden(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def install() -> None:
    """From here on nothing that this process prints, traces too, shows a secret."""
    out: Any = MaskedStream(sys.stdout)
    err: Any = MaskedStream(sys.stderr)
    sys.stdout, sys.stderr = out, err
