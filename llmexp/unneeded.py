"""What libraries import only because it is installed: seconds of every start, and memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any


def import_torchmetrics() -> None:
    """Import torchmetrics without scipy.signal, a second and 60 MB, and matplotlib, a third of one.

    All it does with the first is to give back a function that scipy renamed, for a measure of
    speech; the second is imported once a metric is asked for a plot.
    """
    if "torchmetrics" in sys.modules:
        return
    signal = ModuleType("scipy.signal")
    signal.hamming = None  # type: ignore[attr-defined]
    wanted = {"scipy": {"scipy.signal": signal}, "matplotlib": _matplotlib()}
    ours = {
        name: module
        for package, modules in wanted.items()
        if not any(name in sys.modules for name in modules)
        for name, module in modules.items()
    }
    sys.modules.update(ours)
    try:
        import_module("torchmetrics")
    finally:
        for name in ours:
            del sys.modules[name]
        if signal.__name__ in ours:
            vars(sys.modules["scipy"]).pop("signal", None)


class _Later(ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        found = sys.modules.get(self.__name__)
        if found is self or name.startswith("__"):
            raise AttributeError(f"{self.__name__} has no {name} yet")
        return getattr(import_module(self.__name__), name)


class _Axes(type):
    """As matplotlib's class, to `isinstance`."""

    def __instancecheck__(cls, value: Any) -> bool:
        from matplotlib.axes import Axes

        return isinstance(value, Axes)


@contextmanager
def _style(*names: Any, **how: Any) -> Iterator[None]:
    from matplotlib import style

    with style.context(*names, **how):
        yield


def _matplotlib() -> dict[str, ModuleType]:
    """What torchmetrics.utilities.plot names of it while it is imported."""
    root, axes, pyplot = (_Later(f"matplotlib{end}") for end in ("", ".axes", ".pyplot"))
    vars(axes)["Axes"] = _Axes("Axes", (), {})
    vars(pyplot).update(Figure=object, style=SimpleNamespace(context=_style))
    colors = SimpleNamespace(Colormap=object)
    vars(root).update(axes=axes, pyplot=pyplot, colors=colors)
    return {module.__name__: module for module in (root, axes, pyplot)}


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
