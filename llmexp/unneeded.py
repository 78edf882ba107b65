"""What libraries import only because it is installed: seconds of every start, and memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any


def import_libraries() -> None:
    """Import torchmetrics and transformers' models without what they do not do here.

    scipy.signal is a second and 60 MB, of which torchmetrics gives back a function that scipy
    renamed, for a measure of speech. matplotlib is a third of a second, for plots of metrics, and
    scipy.optimize as much, for losses of object detection: these two come when they are called.
    """
    signal = ModuleType("scipy.signal")
    signal.hamming = None  # type: ignore[attr-defined]
    # SciencePlots, where it is installed, is imported by torchmetrics and changes the real one.
    drawing = () if find_spec("scienceplots") else _matplotlib()
    with _instead(signal), _instead(*drawing):
        import_module("torchmetrics")
    optimize = ModuleType("scipy.optimize")
    optimize.linear_sum_assignment = _assignment  # type: ignore[attr-defined]
    with _instead(optimize):
        import_module("transformers.modeling_utils")


@contextmanager
def _instead(*modules: ModuleType) -> Iterator[None]:
    """Inside, these are imported in place of those of their names, unless one is there already."""
    if any(module.__name__ in sys.modules for module in modules):
        yield
        return
    sys.modules.update((module.__name__, module) for module in modules)
    try:
        yield
    finally:
        for module in modules:
            del sys.modules[module.__name__]
            package, _, name = module.__name__.rpartition(".")
            vars(sys.modules.get(package, module)).pop(name, None)


def _assignment(*given: Any, **how: Any) -> Any:
    return import_module("scipy.optimize").linear_sum_assignment(*given, **how)


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


def _matplotlib() -> tuple[ModuleType, ...]:
    """What torchmetrics.utilities.plot names of it while it is imported."""
    root, axes, pyplot = (_Later(f"matplotlib{end}") for end in ("", ".axes", ".pyplot"))
    vars(axes)["Axes"] = _Axes("Axes", (), {})
    vars(pyplot).update(Figure=object, style=SimpleNamespace(context=_style))
    colors = SimpleNamespace(Colormap=object)
    vars(root).update(axes=axes, pyplot=pyplot, colors=colors)
    return axes, pyplot, root


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
