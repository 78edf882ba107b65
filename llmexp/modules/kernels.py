"""What computes a network while it trains: model.attention, model.compile, and their `auto`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llmexp.modules.beginning import resumed_otherwise
from llmexp.nets.architecture import unwrapped
from llmexp.nets.attention import FLASH, WHY, no_flash
from llmexp.nets.compilation import compile_blocks, eagerly, no_compiler

if TYPE_CHECKING:
    from llmexp.context import Context


class Kernels:
    """Settled when training begins: only then device, precision and frozen blocks are known."""

    def __init__(self, net: nn.Module, frozen: list[nn.Module], context: Context):
        self.net, self.frozen, self.context = net, frozen, context
        self.loaded = self.attention
        """What the network came with."""
        self.compiles = False
        self.before: dict[str, Any] | None = None
        """What computed the run that is resumed."""

    def settle(self, device: torch.device, half: bool) -> list[str]:
        """Choose what is left to the machine; remarks on what that is, and where it is another."""
        model, found = self.context.model, []
        if model.attention == "auto" and getattr(self.context.task, "packing", False):
            why = self._no_flash(device, half)
            self._attend(FLASH if why is None else self.loaded)
            said = f"{self.attention} for packs" + (f": {why}" if why else "")
            found.append(f"model.attention=auto: {said}")
        self.compiles = model.compile is True
        if model.compile == "auto":
            why = no_compiler(device)
            self.compiles = why is None
            said = "trained blocks are compiled" if why is None else f"not compiled: {why}"
            found.append(f"model.compile=auto: {said}")
        return found + (resumed_otherwise(self.before, self.state()) if self.before else [])

    def compile(self) -> None:
        """After the packing proof: what is proven is the network itself."""
        if self.compiles:
            compile_blocks(self.net, self.frozen)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"attention": self.attention, "compile": self.compiles}

    @property
    def attention(self) -> str | None:
        """None of a classifier of features, which has none."""
        config = getattr(unwrapped(self.net), "config", None)
        return getattr(config, "_attn_implementation", None)

    @contextmanager
    def as_loaded(self) -> Iterator[None]:
        """For writing, which has no packs, and in which a compiled block would see a new size, and
        another state of its cache, with every token."""
        chosen = self.attention
        self._attend(self.loaded)
        try:
            with eagerly(self.net):
                yield
        finally:
            self._attend(chosen)

    def put_away(self) -> None:
        """For what comes after, which has no packs and may be on another device."""
        self._attend("sdpa" if self.loaded in WHY else self.loaded)

    def _attend(self, attention: str | None) -> None:
        if attention is not None and attention != self.attention:
            unwrapped(self.net).set_attn_implementation(attention)

    def _no_flash(self, device: torch.device, half: bool) -> str | None:
        if self.frozen and self.context.cache.enabled:
            return (
                "states of frozen blocks are stored by rows, and flash attention has packs in one"
            )
        return no_flash(unwrapped(self.net), device, half)
