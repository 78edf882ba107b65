"""`model/`: what a run trained, in Hugging Face or PEFT layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmexp.context import Context


def export_network(net: Any, context: Context) -> None:
    """Save network or adapters with the tokenizer."""
    folder = context.folder / "model"
    net.save_pretrained(folder)
    context.tokenizer.save_pretrained(folder)
