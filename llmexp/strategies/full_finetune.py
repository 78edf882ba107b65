from __future__ import annotations

from llmexp.config import spec
from llmexp.strategies.base import Strategy


@spec
class FullFinetune(Strategy):
    """Every parameter is trained from its pretrained value."""
