"""Nothing that looks like a secret leaves the machine."""

from __future__ import annotations

import re
from typing import Any

KEY = re.compile(r"(^|_)(token|secret|password|passwd|api_?key|credentials?)($|_)", re.IGNORECASE)
VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{12,})"
)
MASK = "***"


def masked(node: Any, key: str = "") -> Any:
    """A plain tree with every text that is named or shaped like a secret hidden."""
    if isinstance(node, dict):
        return {name: masked(value, str(name)) for name, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [masked(value, key) for value in node]
    if not isinstance(node, str):
        return node
    return MASK if KEY.search(key) else VALUE.sub(MASK, node)
