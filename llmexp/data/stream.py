"""Training batches from a stream of rows, in an order of seed and epoch alone.

rows -> shuffle buffer -> units -> stretches of units -> updates -> batches of one rank. Where no
batch depends on a length in tokens, a unit is text: only the rank and the worker that train on it
tokenise it, and a batch that is skipped is never tokenised.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from llmexp.data.loader import Place, ResumableLoader
from llmexp.data.stream_plan import BudgetPlan, Plan, RowPlan
from llmexp.data.stream_rows import RowStream, numbered, shuffled
from llmexp.data.stream_units import Units, units_of
from llmexp.errors import UserError
from llmexp.tasks.base import Batch, Encoded, Row

if TYPE_CHECKING:
    from llmexp.context import Context

# Keys of a batch on its way from a worker: what was counted while it was made, or why it was not.
COUNTS, REFUSED = "stream_counts", "stream_refused"


class BatchStream(IterableDataset[Batch]):
    """The batches of one rank in one pass; every worker walks through all and makes its own."""

    def __init__(
        self,
        rows: RowStream,
        units: Units,
        plan: Plan,
        collate: Callable[[list[Row]], Batch],
        seed: int,
        *,
        reports: bool,
    ):
        self.rows, self.units, self.plan = rows, units, plan
        self.collate, self.seed = collate, seed
        self.reports = reports
        """Whether this rank tells what all of them count alike."""
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that of this epoch."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """The next pass, and it alone, begins so many batches further on."""
        self.start = batches

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        mine, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        start, self.start = self.start, 0
        seen: Counter[str] = Counter()
        told: Counter[str] = Counter()
        self.units.begin()
        try:
            for number, units in enumerate(self._batches(seen)):
                new, told = seen - told, seen.copy()
                if number >= start and (number - start) % workers == mine:
                    yield self._made(units, new if self.reports else Counter())
        except UserError as error:
            # Raised in a worker it would arrive with a trace.
            yield {REFUSED: str(error)}

    def _batches(self, seen: Counter[str]) -> Iterator[list[Row]]:
        """The units of each batch of this rank; `seen` is what was counted up to it."""
        buffer = self.rows.task.shuffle_buffer
        rows = shuffled(numbered(self.rows.rows(seen)), buffer, f"{self.seed}:{self.epoch}")
        held: list[Row] = []
        total = number = 0
        for unit in self.units.of(rows, seen):
            held.append(unit)
            total += self.units.size(unit)
            if self.plan.enough(len(held), total):
                held = yield from self._cut(held, number, last=False)
                number, total = number + 1, sum(map(self.units.size, held))
        if held:
            yield from self._cut(held, number, last=True)

    def _cut(
        self, held: list[Row], number: int, last: bool
    ) -> Generator[list[Row], None, list[Row]]:
        """The batches of a stretch of units; returns what waits for the next stretch."""
        draw = random.Random(f"{self.seed}:{self.epoch}:{number}")  # noqa: S311
        sizes = [self.units.size(unit) for unit in held]
        batches, rest = self.plan.cut(sizes, draw.getrandbits(40), last)
        for batch in batches:
            yield [held[i] if i >= 0 else self.units.filler(held[-1 - i]) for i in batch]
        return [held[i] for i in rest]

    def _made(self, units: list[Row], counts: Counter[str]) -> Batch:
        rows = self.units.made(units, counts)
        real = Encoded([row for row in rows if row["index"] >= 0])
        facts = real.facts() if real.rows else {}
        return {**self.collate(rows), COUNTS: {**facts, **counts}}


class StreamLoader(ResumableLoader):
    """One pass an epoch, of a length that only its end tells."""

    def __init__(self, stream: BatchStream, workers: int, place: Callable[[], Place | None]):
        super().__init__(
            stream,
            source=stream,
            place=place,
            batch_size=None,
            num_workers=workers,
            collate_fn=_same,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if REFUSED in batch:
                raise UserError(batch[REFUSED])
            yield batch
        # Workers skipped in copies of the stream: the next pass begins at its beginning.
        self.source.skip(0)


def _same(batch: Any) -> Any:
    return batch


def batch_stream(
    context: Context, collate: Callable[[list[Row]], Batch], rank: int, world: int
) -> BatchStream:
    """The training batches of one rank."""
    task, rows = context.task, context.examples.stream
    assert rows is not None
    cut = (context.accumulate, rank, world)
    plan: Plan = RowPlan(task.batch_size, *cut)
    if task.tokens_per_batch is not None:
        plan = BudgetPlan(task.tokens_per_batch, *cut)
    return BatchStream(rows, units_of(context), plan, collate, context.seed, reports=rank == 0)
