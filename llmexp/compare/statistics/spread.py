"""How far an average over seeds may be from the truth: the parts of its variance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmexp.compare.statistics.sample import Numbers, Sample


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate and how well it is known."""

    variance: float
    freedom: float
    """Degrees of freedom."""
    examples: float
    """What of the variance another draw of test examples accounts for, as many as these."""
    seeds: float
    """What other seeds account for."""
    between: float
    """The variance as it is seen between seeds alone."""
    between_freedom: float

    @property
    def error(self) -> float:
        return float(np.sqrt(self.variance))

    def reach(self, chance: float) -> float:
        """How far the estimate may be from the truth by chance alone, at either side.

        The wider of two: all components with Satterthwaite's degrees of freedom, and an ordinary t
        interval over the runs. The first alone is too narrow where few seeds happen to agree: they
        then seem not to matter, and with the degrees of freedom of the test examples at that.
        """
        from scipy.stats import t

        whole = float(t.isf(chance / 2, self.freedom)) * self.error
        runs = float(t.isf(chance / 2, self.between_freedom)) * float(np.sqrt(self.between))
        return max(whole, runs)

    def p_value(self, distance: float) -> float:
        """The chance of an estimate at least as far from a truth: `reach` turned round."""
        from scipy.stats import t

        parts = ((self.variance, self.freedom), (self.between, self.between_freedom))
        found = [2 * float(t.sf(abs(distance) / np.sqrt(v), f)) for v, f in parts if v > 0]
        return max(found, default=float(distance == 0))


def spread(sample: Sample, arms: list[list[int]], signs: list[float]) -> Spread:
    """Of the sum over arms of sign times the mean over the arm's runs (which differ in seed).

    Seeds and examples are crossed random effects, as readers and cases are in studies of
    diagnoses: variance = examples / N + seeds / S + interaction / (N S). The bootstrap over both
    levels divides by S where S - 1 is due, and ignores that a variance out of three numbers is
    hardly known: with three seeds its percentile interval of 95 % may cover 80 %. So the variance
    is what is seen between seeds (which holds the interaction), plus what the examples add to
    that; its degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946; for this design
    Hillis, Statistics in Medicine 26, 2007). An arm of one run adds nothing for its seed: then the
    claim is about that run.
    """
    weights = np.zeros(len(sample.values))
    for runs, sign in zip(arms, signs, strict=True):
        weights[runs] = sign / len(runs)
    within = max(0.0, float(weights @ sample.covariance @ weights))
    parts = [_between(sample.values[r], sample.covariance[np.ix_(r, r)]) for r in arms]
    observed = sum(seen for seen, _ in parts)
    noise = sum(luck for _, luck in parts)
    shared = max(0.0, within - noise)
    between = sum(o**2 / (len(r) - 1) for (o, _), r in zip(parts, arms, strict=True) if o > 0)
    squares = between + shared**2 / max(1, sample.examples - 1)
    variance = observed + shared
    many = float(max(1, sample.examples - 1))
    freedom = variance**2 / squares if squares > 0 else many
    runs_freedom = observed**2 / between if between > 0 else many
    seeds = max(0.0, observed - noise)
    return Spread(variance, freedom, within, seeds, observed, runs_freedom)


def _between(values: Numbers, covariance: Numbers) -> tuple[float, float]:
    """Variance of the mean as seen between seeds, and what of it the examples' luck explains."""
    count = len(values)
    if count == 1:
        return 0.0, 0.0
    shared = float(covariance.mean())
    luck = (float(covariance.trace()) / count - shared) / (count - 1)
    return float(values.var(ddof=1)) / count, luck
