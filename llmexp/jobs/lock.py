"""One writer for each run folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from llmexp.errors import UserError
from llmexp.jobs.results import is_full

FILE = ".lock"


class FolderLock:
    """While entered, a run folder has this process as its writer; another one is refused.

    The system gives it back however the process ends. It belongs to the process and not to a file
    descriptor, so data workers and other children that outlive a killed run do not hold it.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.file = -1
        self.kept = False

    def __enter__(self) -> FolderLock:
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            writer = os.read(self.file, 200).decode(errors="replace").strip()
            os.close(self.file)
            raise UserError(
                f"{self.path.parent} is being written by {writer or 'another process'}; wait until "
                "it has ended, or choose another hydra.run.dir"
            ) from error
        try:
            os.truncate(self.file, 0)
            os.write(self.file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            # The lock holds on a full disk, too; only its holder is not named.
            if not is_full(error):
                raise
        return self

    def keep(self) -> None:
        """Hold it until the process ends, also where it is replaced by another program."""
        self.kept = True
        os.set_inheritable(self.file, True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.kept:
            os.close(self.file)
