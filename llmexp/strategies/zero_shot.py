from __future__ import annotations

from llmexp.config import spec
from llmexp.strategies.prompting import Prompting


@spec
class ZeroShot(Prompting):
    """The pretrained model answers without having seen an example."""
