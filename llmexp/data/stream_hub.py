"""Rows of a hub set while they arrive: nothing is downloaded first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmexp.data.hub import HubSet, class_names, failed, faults, load, with_names
from llmexp.data.lines import Located, RawRow

# Rows that are taken over together.
CHUNK = 256


def stream_hub(locator: str) -> Iterator[Located]:
    """(where, raw row) of each row, class numbers replaced by class names."""
    source = HubSet.parse(locator)
    table = load(source, streaming=True)
    names = class_names(table)
    try:
        for number, row in enumerate(_rows(table), start=1):
            yield f"{locator}: row {number}", with_names(row, names)
    except faults() as error:
        raise failed(source, error) from None


def _rows(table: Any) -> Iterator[RawRow]:
    # Iterated row by row in a loader's worker, datasets 5 gives each worker a part of the shards.
    for columns in table.iter(batch_size=CHUNK):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))
