"""What libraries import only because it is installed: seconds of every start, and memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


def import_torchmetrics() -> None:
    """Import torchmetrics without scipy.signal, a second and 60 MB.

    All it does with it is to give back a function that scipy renamed, for a measure of speech.
    """
    name = "scipy.signal"
    if "torchmetrics" not in sys.modules and name not in sys.modules:
        stand_in = ModuleType(name)
        stand_in.hamming = None  # type: ignore[attr-defined]
        sys.modules[name] = stand_in
        try:
            import_module("torchmetrics")
        finally:
            del sys.modules[name]
            vars(sys.modules["scipy"]).pop("signal", None)


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Inside, peft takes bitsandbytes for absent, unless something has imported it already.

    What is in 4 bits was loaded by it. peft imports it in any case, and with it torch's compiler.
    """
    if "bitsandbytes" in sys.modules:
        yield
        return
    from transformers.utils import is_bitsandbytes_available

    is_bitsandbytes_available()  # it remembers its answer, which must be the true one
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
        from peft import import_utils

        import_utils.is_bnb_available.cache_clear()
        import_utils.is_bnb_4bit_available.cache_clear()
