"""A DataLoader that an interrupted run finds again where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader


class Source(Protocol):
    """What decides the batches: a sampler, a batch sampler, or an iterable set of batches.

    Its order is a pure function of the epoch. `skip` counts batches that it would yield here, and
    holds for the next iteration that is begun, not merely made: DataLoaders with workers make two.
    """

    def set_epoch(self, epoch: int) -> None: ...

    def skip(self, batches: int) -> None: ...


class Place(NamedTuple):
    """Where training is: the epoch, how many of its batches were trained, whether it is over."""

    epoch: int
    batches: int
    over: bool


class Placed:
    """Saves (epoch, batches trained), a finished epoch as (epoch + 1, 0); Lightning stores it.

    Any source with `set_epoch(epoch)` and `skip(batches)` works. What was trained is asked of
    `place`, not counted here: workers and Lightning's look-ahead take batches that are not trained
    yet. `begin` comes when the first batch is asked for, so that an epoch set after `iter` still
    counts. Where `place` knows nothing (no Trainer), the source's own epoch stands.
    """

    source: Source
    place: Callable[[], Place | None]
    pending: int | None = None

    def state_dict(self) -> dict[str, int]:
        place = self.place()
        assert place is not None  # Lightning saves while it trains
        if place.over:
            return {"epoch": place.epoch + 1, "batches": 0}
        return {"epoch": place.epoch, "batches": place.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.source.set_epoch(state["epoch"])
        self.pending = state["batches"]

    def begin(self) -> None:
        """Tell the source which epoch it is, and how much of it was trained before."""
        place = self.place()
        if place is not None:
            self.source.set_epoch(place.epoch)
        if self.pending is not None:
            self.source.skip(self.pending)
            self.pending = None


class ResumableLoader(Placed, DataLoader):
    """A DataLoader that has a place; its workers are seeded by a generator of its own.

    The run's random numbers are left alone.
    """

    def __init__(
        self, dataset: Any, *, source: Source, place: Callable[[], Place | None], **settings: Any
    ):
        super().__init__(dataset, generator=torch.Generator().manual_seed(0), **settings)
        self.source, self.place = source, place

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.begin()
        yield from super().__iter__()


def place_in(trainer: Any) -> Place | None:
    """Where a Trainer's fit is; None without one."""
    if trainer is None:
        return None
    fit = trainer.fit_loop
    batches = fit.epoch_loop.batch_progress.current.ready
    over = batches > 0 and fit.epoch_loop._num_ready_batches_reached()
    return Place(fit.epoch_progress.current.processed, batches, over)
