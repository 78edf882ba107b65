"""Rows that cannot be used: raised as they are met, or left out up to a ceiling."""

from __future__ import annotations

from collections.abc import Callable

from llmexp.errors import UserError
from llmexp.tasks.base import Task

# What a reader calls with the error about a row; where it returns, the row is left out.
Bad = Callable[[UserError], None]


def refuse(error: UserError) -> None:
    raise error


class BadRows:
    """The bad rows of one source, judged as `data.on_bad_row` and `data.max_bad_rows` say."""

    def __init__(self, task: Task, locator: str):
        self.task, self.locator = task, locator
        self.count = 0
        self.first = ""

    def __call__(self, error: UserError) -> None:
        """Raise the error, or count it; raises too where the count is over a ceiling of rows."""
        if self.task.on_bad_row == "raise":
            raise error
        self.count += 1
        self.first = self.first or str(error)
        ceiling = self.task.max_bad_rows
        if isinstance(ceiling, int) and self.count > ceiling:
            raise self._too_many(f"{self.count} rows")

    def close(self, good: int) -> list[str]:
        """Judge a ceiling that is a fraction of all rows; what a user should be told."""
        total, ceiling = self.count + good, self.task.max_bad_rows
        if self.count > ceiling * total and isinstance(ceiling, float):
            raise self._too_many(f"{self.count} of {total} rows")
        if not self.count:
            return []
        return [
            f"{self.count} of {total} rows of {self.locator} cannot be used and are left out; "
            f"the first: {self.first}"
        ]

    def _too_many(self, rows: str) -> UserError:
        return UserError(
            f"data.max_bad_rows: {rows} of {self.locator} cannot be used, more than "
            f"{self.task.max_bad_rows} allows; raise it, or mend the first: {self.first}"
        )
