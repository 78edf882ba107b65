"""Which train rows a model is shown: drawn with the run's seed, or the nearest to each query."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llmexp.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from llmexp.tasks.base import Examples, Row

Selection = Literal["random", "balanced", "nearest"]


@dataclass(frozen=True)
class Exemplars:
    """Train rows in the order in which they are shown; zero-shot shows none."""

    rows: list[Row] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    """Where each of `rows` stands in train."""
    nearest: int | None = None
    """Show only this many of each class, those most similar to the query; null shows all."""


def choose(examples: Examples, k: int, selection: Selection, seed: int) -> Exemplars:
    """`k` rows of train per class, or in all where there are no classes; a function of the seed.

    balanced: k of each class, in rounds of one of each. random: as many rows in all, whatever
    their class. nearest: k of each class, those most similar to the query; here all are kept.
    """
    classes: dict[str, list[int]] = {label: [] for label in examples.labels} or {"": []}
    for index, row in enumerate(examples.train):
        classes[row.get("label", "")].append(index)
    _check(classes, k, selection)
    draw = random.Random(f"{seed}:exemplars")  # noqa: S311  (a choice of rows, not a secret)
    if selection == "nearest":
        return Exemplars(examples.train, list(range(len(examples.train))), nearest=k)
    if selection == "random":
        indices = draw.sample(range(len(examples.train)), k * len(classes))
    else:
        drawn = [draw.sample(members, k) for members in classes.values()]
        indices = []
        for turn in zip(*drawn, strict=True):
            indices += draw.sample(turn, len(turn))
    return Exemplars([examples.train[i] for i in indices], indices)


def _check(classes: dict[str, list[int]], k: int, selection: Selection) -> None:
    each = " per class" if len(classes) > 1 else ""
    total = sum(map(len, classes.values()))
    if selection == "random" or len(classes) == 1:
        most = total // len(classes)
        if k > most:
            raise UserError(
                f"strategy.k: {k} examples{each} were asked for, and train has only {total} rows"
                f"{' in all' if each else ''}; strategy.k={most} would work"
            )
        return
    rarest = min(classes, key=lambda name: len(classes[name]))
    most = len(classes[rarest])
    if k > most:
        works = f"strategy.k={most}" if most else "a larger data.limit.train"
        also = " or strategy.selection=random" if k * len(classes) <= total else ""
        raise UserError(
            f"strategy.k: {k} examples per class were asked for, and train has only {most} of "
            f"{rarest!r}; {works}{also} would work"
        )


def nearest(query: Tensor, pool: Tensor, labels: Tensor, classes: int, k: int) -> Tensor:
    """Positions in the pool of the k most similar rows of each class: [B, C, k], best first.

    query [B, H], pool [N, H] are unit vectors; labels [N] are class indices.
    """
    import torch

    similarity = query @ pool.T  # [B, N]
    found = []
    for c in range(classes):
        members = (labels == c).nonzero()[:, 0]
        found.append(members[similarity[:, members].topk(k, dim=1).indices])
    return torch.stack(found, dim=1)
