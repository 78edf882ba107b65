"""A request and its answer; the loss counts answer tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

from llmexp.config import spec
from llmexp.tasks.base import Row, Task


@spec
class Instruction(Task):
    """Rows of `messages`: an optional system turn, then user and assistant turns."""

    kind: ClassVar[str] = "instruction"

    format: Literal["auto", "alpaca", "prompt_completion", "messages", "sharegpt"] = "auto"
    """How requests are written down; auto tells it from the columns."""
    system: str | None = None
    """A system turn for rows that have none."""
    prompt: str | None = None
    """The user's turn, made of columns: "{dialogue} Summarize the dialogue." """

    def specimens(self, split: str) -> list[Row]:
        from llmexp.data.specimens import answered

        return answered(self, split)

    def canonical(self, raw: Row, where: str) -> Row:
        from llmexp.data.formats import instruction_row

        return instruction_row(raw, self, where)
