"""The LightningDataModule of a streamed train split."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from llmexp.data.loader import Place
from llmexp.data.module import TokenData
from llmexp.data.stream import COUNTS, StreamLoader, batch_stream
from llmexp.errors import UserError
from llmexp.modules.gathered import from_all
from llmexp.tasks.base import Batch

if TYPE_CHECKING:
    from llmexp.context import Context

log = logging.getLogger("llmexp")


class StreamData(TokenData):
    """Train batches from a stream; validation and test are tokenised, and kept, as usual."""

    held: ClassVar[tuple[str, ...]] = ("validation", "test")

    def __init__(self, context: Context, frozen: int):
        super().__init__(context, context.accumulate)
        self.read: Counter[str] = Counter()
        """Of the batches that were trained on, on this rank."""
        self.longest = 0
        if frozen and context.strategy.trains:
            self._note(f"the {frozen} frozen blocks run in every step: train is streamed")

    def train_dataloader(self) -> StreamLoader:
        stream = batch_stream(self.context, self.collate("train"), *self._rank())
        return StreamLoader(stream, self.context.task.num_workers, self.place)

    def place(self) -> Place | None:
        place = super().place()
        fetcher = self.trainer.fit_loop._data_fetcher if self.trainer is not None else None
        if place is None or fetcher is None:
            return place
        # Lightning looks one batch ahead, so that it knows of the last one that it is.
        return place._replace(over=place.batches > 0 and fetcher.done)

    def state_dict(self) -> dict[str, Any]:
        """What every rank has read, for a run that goes on from here."""
        parts = from_all((self.read, self.longest))
        return {"read": [dict(read) for read, _ in parts], "longest": [n for _, n in parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rank = self._rank()[0]
        self.read = Counter(state_dict["read"][rank])
        self.longest = state_dict["longest"][rank]

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Called when a batch is used, where its loader may be ahead of that."""
        if COUNTS in batch:
            self._count(batch.pop(COUNTS))
            # As it grows, so that a run that is stopped has it.
            self.context.examples.encoding["train"] = self._facts(self.read, self.longest)
        return batch

    def _count(self, counts: Mapping[str, int]) -> None:
        self.longest = max(self.longest, counts.get("longest", 0))
        self.read.update({name: n for name, n in counts.items() if name != "longest"})

    def _facts(self, read: Mapping[str, int], longest: int) -> dict[str, Any]:
        facts: dict[str, Any] = {"streamed": True, **read, "longest": longest}
        if "packs" in read:
            room = read["rows"] * self.context.max_length
            facts["fill"] = round(read["tokens"] / room, 4)
        return facts

    def teardown(self, stage: str) -> None:
        """What all ranks read together, and a word where the stream ended before its steps."""
        if stage != "fit" or self.trainer is None:
            return
        read: Counter[str] = Counter()
        longest = 0
        for part, most in from_all((self.read, self.longest)):
            read.update(part)
            longest = max(longest, most)
        done, wanted = self.trainer.global_step, self.trainer.max_steps
        if not read["tokens"] and done == 0:
            raise UserError(f"data.train: no row is left after tokenising ({dict(read)})")
        self.context.examples.encoding["train"] = self._facts(read, longest)
        if done < wanted and self.trainer.current_epoch == self.trainer.max_epochs:
            self._note(
                f"the stream ended after {done} of trainer.max_steps={wanted} steps; "
                "trainer.max_epochs=-1 reads it again, in another order"
            )

    def _note(self, said: str) -> None:
        log.warning(said)
        self.context.examples.notes.append(said)
