from __future__ import annotations

import fcntl
from pathlib import Path

from llmexp.errors import UserError


class Claim:
    """A hold on the folder of a sweep, which ends with the process, however that ends.

    A grid is held by one process; a search may be `shared` by any number of workers. Taking and
    leaving are called by one process at a time.
    """

    def __init__(self, folder: Path, shared: bool = False):
        self.folder = folder
        self.shared = shared

    def take(self) -> bool:
        """Whether this process is alone here; refuses where it may not share."""
        self.file = (self.folder / ".sweep.lock").open("a")
        alone = self._locks(fcntl.LOCK_EX)
        if not alone and not (self.shared and self._locks(fcntl.LOCK_SH)):
            self.file.close()
            raise UserError(
                f"{self.folder}: another process is running this sweep; watch it with "
                f"llmexp status {self.folder}, or give another hydra.sweep.dir"
            )
        return alone

    def share(self) -> None:
        """Let others in, if they may come."""
        if self.shared:
            fcntl.flock(self.file, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Whether this process was the last one here."""
        last = self._locks(fcntl.LOCK_EX)
        if not last:
            fcntl.flock(self.file, fcntl.LOCK_UN)
        return last

    def close(self) -> None:
        self.file.close()

    def _locks(self, how: int) -> bool:
        try:
            fcntl.flock(self.file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
