"""Scores of several runs on the same test examples, and how they vary over examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Value = Callable[[Numbers], Numbers]

RESAMPLES = 4999
# Draws of one bootstrap: resamples times examples; bounds its seconds on a large test set.
DRAWS = 100_000_000


def means(parts: Numbers) -> Numbers:
    """The value of a metric that is a plain mean: [..., 1] -> [...]."""
    return parts[..., 0]


@dataclass(frozen=True)
class Sample:
    """R runs on N examples: `parts` [R, N, P]; a metric is `value` of the parts' means [.., P].

    `bounded`: between 0 and 1. Every resample draws the same examples for all runs, so whatever
    is hard for all of them cancels in a difference.
    """

    parts: Numbers
    value: Value = means
    bounded: bool = True

    @classmethod
    def of_scores(cls, scores: Any, bounded: bool = True) -> Sample:
        """From one number for each run and example: [R, N]."""
        return cls(np.asarray(scores, dtype=np.float64)[..., None], bounded=bounded)

    @property
    def examples(self) -> int:
        return self.parts.shape[1]

    @property
    def linear(self) -> bool:
        """Whether the metric is the mean of one score an example."""
        return self.value is means

    @cached_property
    def binary(self) -> bool:
        """Whether every example is simply right or wrong."""
        return self.linear and self.bounded and bool(np.isin(self.parts, (0.0, 1.0)).all())

    @property
    def scores(self) -> Numbers:
        """[R, N] of a linear metric."""
        return self.parts[..., 0]

    @cached_property
    def values(self) -> Numbers:
        """The metric of each run: [R]."""
        return self.value(self.parts.mean(axis=1))

    @cached_property
    def covariance(self) -> Numbers:
        """Of the runs' values over draws of the test examples: [R, R]."""
        if self.linear:
            return np.atleast_2d(np.cov(self.scores)) / self.examples
        return np.atleast_2d(np.cov(self.replicates))

    @cached_property
    def replicates(self) -> Numbers:
        """The values on test sets drawn again with replacement: [R, resamples]."""
        generator = np.random.default_rng(0)
        count = int(np.clip(DRAWS // self.examples, 999, RESAMPLES))
        even = np.full(self.examples, 1 / self.examples)
        made = []
        for size in [100] * (count // 100) + [count % 100]:
            weights = generator.multinomial(self.examples, even, size=size) / self.examples
            made.append(self.value(np.matmul(weights, self.parts)))
        return np.concatenate(made, axis=1)
