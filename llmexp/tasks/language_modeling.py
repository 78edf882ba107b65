"""Plain text; every token is predicted from those before it."""

from __future__ import annotations

from typing import ClassVar

from llmexp.config import spec
from llmexp.tasks.base import Row, Task


@spec
class LanguageModeling(Task):
    """Rows of `text`, packed into blocks."""

    kind: ClassVar[str] = "language_modeling"

    def specimens(self, split: str) -> list[Row]:
        from llmexp.data.specimens import documents

        return documents(self, split)

    def canonical(self, raw: Row, where: str) -> Row:
        from llmexp.data.formats import text_row

        return text_row(raw, self, where)
