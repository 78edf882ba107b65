"""The frozen prefix of a network: its states captured, handed back, proven to change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from llmexp.tasks.base import Batch, Loss

    # The loss of a batch, as training computes it.
    Run = Callable[[Batch], Loss]


@contextmanager
def standing_in(frozen: Sequence[nn.Module], hidden: Tensor | None) -> Iterator[None]:
    """Inside, every frozen block returns `hidden` [B, T, H] instead of computing; None: nothing."""
    if hidden is None:
        yield
        return

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return hidden

    before = [vars(block).get("forward") for block in frozen]
    for block in frozen:
        vars(block)["forward"] = forward
    try:
        yield
    finally:
        for block, own in zip(frozen, before, strict=True):
            del vars(block)["forward"]
            if own is not None:
                vars(block)["forward"] = own


class _ReachedError(Exception):
    """Ends a forward pass at the top of the prefix: nothing above it is wanted."""

    def __init__(self, states: Any):
        self.states = states


def states_of(frozen: Sequence[nn.Module], run: Run, batch: Batch) -> Any:
    """What the highest frozen block returns for a batch; the rest of the network does not run."""

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _ReachedError(output)

    handle = frozen[-1].register_forward_hook(stop)
    try:
        run(batch)
    except _ReachedError as reached:
        return reached.states
    finally:
        handle.remove()
    raise RuntimeError(f"{type(frozen[-1]).__name__} was not called")


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Inside, no module drops out; afterwards each is in the mode it was in."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def proven(
    net: nn.Module,
    frozen: Sequence[nn.Module],
    run: Run,
    whole: Batch,
    read: Batch,
    at: int | None,
    tolerance: float = 1e-5,
) -> bool:
    """Whether stored states give the loss, logits and every gradient of the whole network.

    `read` is `whole` cut to the positions that are kept: all of them (`at` is None), or one.
    """
    with evaluating(net):
        with torch.no_grad():
            hidden = states_of(frozen, run, whole)
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != whole["input_ids"].shape:
            return False
        expected = _outcome(net, run(whole))
        with standing_in(frozen, hidden if at is None else kept(hidden, whole, at)):
            found = _outcome(net, run(read))
    return all(_equal(a, b, tolerance) for a, b in zip(expected, found, strict=True))


def kept(hidden: Tensor, batch: Batch, at: int) -> Tensor:
    """The states [B, 1, H] at the first (0) or the last (-1) real position."""
    rows = torch.arange(len(hidden), device=hidden.device)
    position = 0 * rows if at == 0 else batch["attention_mask"].sum(1) - 1
    return hidden[rows, position][:, None]


def _outcome(net: nn.Module, loss: Loss) -> list[Tensor | None]:
    trained = [p for p in net.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss.total, trained, allow_unused=True)
    logits = None if loss.logits is None else loss.logits.detach()
    return [loss.total.detach(), logits, *gradients]


def _equal(expected: Tensor | None, found: Tensor | None, tolerance: float) -> bool:
    if expected is None or found is None:
        return expected is found
    if expected.shape != found.shape:
        return False
    scale = max(1.0, float(expected.abs().max()))
    return float((expected - found).abs().max()) <= tolerance * scale
