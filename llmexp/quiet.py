"""Loading reports, progress of weights and advice to developers: not what a user came for."""

from __future__ import annotations

import logging
import warnings


def libraries() -> None:
    """Leave errors of the libraries, and nothing below them."""
    warnings.filterwarnings("ignore", message=".*`is_gradient_checkpointing` is deprecated.*")
    # On import it advises a package whose only use is to fetch a kernel from the hub.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
