"""The statistics of `llmexp compare` against worlds whose truth is known."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, bootstrap, norm, permutation_test, ttest_1samp, ttest_ind

from llmexp.compare.measures import measures
from llmexp.compare.statistics.difference import difference, holm, mcnemar
from llmexp.compare.statistics.interval import interval
from llmexp.compare.statistics.sample import Sample
from llmexp.compare.statistics.spread import spread

WORLDS = 1000
# A right 5 % test calls no more than this share of 1,000 different, 999 times in 1,000.
CHANCE = 0.073
# What 95 % intervals hold at most over two seeds.
MOST_OF_TWO = 0.985
# A bootstrap a world takes its time.
FEWER = pytest.mark.parametrize("worlds", [250, pytest.param(WORLDS, marks=pytest.mark.long)])
(F1,) = measures("test/f1_macro", ["no", "yes"])


def latent(
    generator: np.random.Generator, seeds: int, examples: int, between: float, shift: float = 0.0
) -> np.ndarray:
    """Right or wrong [seeds, examples]: hard examples, lucky seeds, and luck of both together."""
    hard = generator.normal(0, 2, examples)
    return judged(generator, hard, seeds, between, shift)


def judged(
    generator: np.random.Generator, hard: np.ndarray, seeds: int, between: float, shift: float = 0.0
) -> np.ndarray:
    lucky = generator.normal(0, between, (seeds, 1))
    both = generator.normal(0, 1, (seeds, len(hard)))
    return (2.5 + shift + hard + lucky + both > 0).astype(float)


def truth(between: float, shift: float = 0.0) -> float:
    return float(norm.cdf((2.5 + shift) / np.sqrt(4 + 1 + between**2)))


def grid() -> list[Any]:
    """Seeds that matter not at all up to four times as much as the test examples do."""
    cases = [(1, 0.0, n) for n in (200, 500, 2000)]
    cases += [(s, b, n) for n in (500, 200, 2000) for s in (2, 3, 5) for b in (0.0, 0.1, 0.3, 0.6)]
    cases += [(10, 0.0, 500), (10, 0.3, 500), (10, 0.6, 500)]
    return [pytest.param(*c, marks=() if c[2] == 500 else pytest.mark.long) for c in cases]


@pytest.mark.parametrize(("seeds", "between", "examples"), grid())
def test_intervals_of_95_percent_cover_in_93_to_97(
    seeds: int, between: float, examples: int
) -> None:
    """Over draws of seeds and test examples together; one seed answers for itself.

    Two seeds say so little about seeds that what is right when they matter is too wide when not.
    """
    generator = np.random.default_rng(1)
    right = truth(between)
    held = 0
    for _ in range(WORLDS):
        found = interval(
            Sample.of_scores(latent(generator, seeds, examples, between)), list(range(seeds))
        )
        held += found.low <= right <= found.high
    assert 0.93 <= held / WORLDS <= (MOST_OF_TWO if seeds == 2 else 0.97)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_a_loss_cover_too(seeds: int) -> None:
    """Skewed, unbounded numbers: squares of normals, with examples and seeds in them."""
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(WORLDS):
        hard = generator.normal(0, 1, 500) ** 2
        lucky = generator.normal(0, 0.1, (seeds, 1)) if seeds > 1 else 0.0
        sample = Sample.of_scores(
            hard + lucky + generator.normal(0, 0.5, (seeds, 500)), bounded=False
        )
        found = interval(sample, list(range(seeds)))
        held += found.low <= 1.0 <= found.high
    assert 0.93 <= held / WORLDS <= 0.97


@pytest.mark.parametrize(
    ("seeds", "between"),
    [(1, 0.0), (2, 0.0), (2, 0.3), (2, 0.6), (3, 0.0), (3, 0.2), (3, 0.6), (5, 0.2), (5, 0.6)],
)
def test_intervals_of_a_difference_cover(seeds: int, between: float) -> None:
    generator = np.random.default_rng(3)
    right = truth(between, 0.3) - truth(between)
    first, second = list(range(seeds)), list(range(seeds, 2 * seeds))
    held = 0
    for _ in range(WORLDS):
        hard = generator.normal(0, 2, 500)
        arms = [judged(generator, hard, seeds, between, shift) for shift in (0.3, 0.0)]
        found = difference(Sample.of_scores(np.concatenate(arms)), first, second)
        held += found.low <= right <= found.high
    assert 0.93 <= held / WORLDS <= (MOST_OF_TWO if seeds == 2 else 0.97)


@pytest.mark.parametrize(
    ("seeds", "between"),
    [(1, 0.0), (2, 0.0), (2, 0.1), (2, 0.3), (2, 0.6), (3, 0.0), (3, 0.3), (3, 0.6), (5, 0.2)],
)
def test_where_nothing_differs_few_are_called_different(seeds: int, between: float) -> None:
    generator = np.random.default_rng(4)
    first, second = list(range(seeds)), list(range(seeds, 2 * seeds))
    called = 0
    for _ in range(WORLDS):
        hard = generator.normal(0, 2, 500)
        arms = [judged(generator, hard, seeds, between) for _ in range(2)]
        called += difference(Sample.of_scores(np.concatenate(arms)), first, second).p < 0.05
    assert called / WORLDS <= CHANCE


def test_where_no_generation_differs_few_are_called_different() -> None:
    """The paired bootstrap, on numbers that are not right or wrong."""
    generator = np.random.default_rng(5)
    called = 0
    for _ in range(WORLDS):
        shared = generator.beta(1, 2, 60)
        scores = np.clip(shared + generator.normal(0, 0.1, (2, 60)), 0, 1)
        found = difference(Sample.of_scores(scores), [0], [1])
        assert found.test == "paired bootstrap"
        called += found.p < 0.05
    assert called / WORLDS <= CHANCE


@pytest.mark.long
@pytest.mark.parametrize("spread_", [0.1, 1.0])
def test_where_no_loss_differs_few_are_called_different(spread_: float) -> None:
    """The paired bootstrap on skewed, unbounded numbers."""
    generator = np.random.default_rng(12)
    called = 0
    for _ in range(WORLDS):
        scores = generator.normal(0, 1, 60) ** 2 + generator.normal(0, spread_, (2, 60)) ** 2
        found = difference(Sample.of_scores(scores, bounded=False), [0], [1])
        assert found.test == "paired bootstrap"
        called += found.p < 0.05
    assert called / WORLDS <= CHANCE


@FEWER
def test_where_no_f1_differs_few_are_called_different(worlds: int) -> None:
    """The paired bootstrap of a metric that is no mean."""
    generator = np.random.default_rng(17)
    called = 0
    for _ in range(worlds):
        reference = generator.random(150) < 0.3
        sample = Sample(np.stack([counted(generator, reference) for _ in range(2)]), F1.value)
        called += difference(sample, [0], [1]).p < 0.05
    # A right 5 % test stays at or below this 999 times in 1,000.
    assert called <= binom.ppf(0.999, worlds, 0.05)


def test_where_one_seed_and_three_do_not_differ_few_are_called_different() -> None:
    """Where seeds do not matter. Where they do, the one answers for itself: how often it is called
    different is what docs/comparing.md warns of."""
    generator = np.random.default_rng(18)
    for between, least, most in ((0.0, 0.0, CHANCE), (0.3, 0.11, 0.19)):
        called = 0
        for _ in range(WORLDS):
            hard = generator.normal(0, 2, 500)
            arms = [judged(generator, hard, seeds, between) for seeds in (1, 3)]
            called += difference(Sample.of_scores(np.concatenate(arms)), [0], [1, 2, 3]).p < 0.05
        assert least <= called / WORLDS <= most


def test_many_arms_that_are_alike_are_seldom_called_different_at_all() -> None:
    """Twelve arms, 66 pairs: Holm's promise is about any of them, and rests on very small p."""
    generator = np.random.default_rng(13)
    called = 0
    for _ in range(40):
        scores = generator.beta(1, 2, 50) + generator.normal(0, 0.1, (12, 50))
        sample = Sample.of_scores(scores, bounded=False)
        found = [difference(sample, [a], [b]).p for a, b in combinations(range(12), 2)]
        called += min(holm(found)) < 0.05
    # A right 5 % test stays below this 999 times in 1,000.
    assert called <= 8


def test_a_clear_difference_is_found_among_many_arms_on_many_examples() -> None:
    """A hundred thousand examples leave time for a thousand resamples: their share is no floor."""
    generator = np.random.default_rng(14)
    base = generator.normal(size=100_000)
    sample = Sample.of_scores([base, base + generator.normal(0.01, 0.1, 100_000)], bounded=False)
    assert sample.replicates.shape[1] < 1001
    found = difference(sample, [0], [1]).p
    assert holm([found, *[0.5] * 299])[0] < 1e-6


@FEWER
def test_intervals_of_an_f1_cover(worlds: int) -> None:
    """A metric that is no mean, from the measure that runs are judged by."""
    generator = np.random.default_rng(15)
    # 30 % yes, of which 80 % are found; of the others 10 % are taken for it.
    yes, no = 2 * 0.24 / (0.3 + 0.31), 2 * 0.63 / (0.7 + 0.69)
    held = 0
    for _ in range(worlds):
        parts = counted(generator, generator.random(150) < 0.3)
        found = interval(Sample(parts[None], F1.value), [0])
        held += found.low <= (yes + no) / 2 <= found.high
    # 93-97 % of 1,000; of fewer, what lies as many standard errors from 95 %.
    luck = 0.02 * np.sqrt(WORLDS / worlds)
    assert abs(held / worlds - 0.95) <= luck


def counted(generator: np.random.Generator, reference: np.ndarray) -> np.ndarray:
    """What the measure of F1 counts in the answers of a classifier that finds 80 % of yes."""
    prediction = generator.random(len(reference)) < np.where(reference, 0.8, 0.1)
    names = np.array(["no", "yes"])
    pairs = zip(names[reference.astype(int)], names[prediction.astype(int)], strict=True)
    return F1.parts([{"reference": str(r), "prediction": str(p)} for r, p in pairs])


def disagreeing(generator: np.random.Generator, points: float, share: float, n: int) -> np.ndarray:
    """Two runs that disagree on `share` of the examples and are `points` apart."""
    kind = generator.choice(3, size=n, p=[(share + points) / 2, (share - points) / 2, 1 - share])
    base = (generator.random(n) < 0.8).astype(float)
    first = np.where(kind == 0, 1.0, np.where(kind == 1, 0.0, base))
    second = np.where(kind == 0, 0.0, np.where(kind == 1, 1.0, base))
    return np.stack([first, second])


def test_three_points_on_2000_examples_are_found() -> None:
    generator = np.random.default_rng(6)
    found = 0
    for _ in range(WORLDS):
        sample = Sample.of_scores(disagreeing(generator, 0.03, 0.10, 2000))
        found += difference(sample, [0], [1]).p < 0.05
    assert found / WORLDS >= 0.95


def test_three_points_are_found_over_three_seeds_as_well() -> None:
    """Seeds that hardly matter cost little power, though only three of them say so."""
    generator = np.random.default_rng(7)
    found = 0
    for _ in range(WORLDS):
        pairs = disagreeing(generator, 0.03, 0.08, 2000)
        noise = generator.random((6, 2000)) < 0.01
        arms = np.abs(np.repeat(pairs, 3, axis=0) - noise)
        found += difference(Sample.of_scores(arms), [0, 1, 2], [3, 4, 5]).p < 0.05
    assert found / WORLDS >= 0.95


def test_the_hierarchical_bootstrap_over_three_seeds_would_cover_too_rarely() -> None:
    """Why the components are estimated: resampling three seeds says they vary less than they do.

    Seeds and examples are both drawn again; 95 % held the truth in 83 of 100.
    """
    generator = np.random.default_rng(8)
    held = 0
    for _ in range(500):
        runs = latent(generator, 3, 500, 0.6)
        seeds = generator.integers(0, 3, (400, 3))
        examples = generator.multinomial(500, np.full(500, 1 / 500), size=400) / 500
        drawn = np.take_along_axis(examples @ runs.T, seeds, axis=1).mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        held += low <= truth(0.6) <= high
    assert 0.78 <= held / 500 <= 0.88


def test_the_paired_bootstrap_agrees_with_that_of_scipy() -> None:
    """The same error of a difference of means and of F1s, and the p of a permutation test."""
    generator = np.random.default_rng(19)
    reference = generator.random(300) < 0.3
    shared = generator.beta(1, 2, 300)
    scores = np.clip(shared + generator.normal([[0.012], [0.0]], 0.1, (2, 300)), 0, 1)
    f1 = Sample(np.stack([counted(generator, reference) for _ in range(2)]), F1.value)
    for sample in (Sample.of_scores(scores), f1):
        one, other = sample.parts

        def apart(rows: np.ndarray, one: Any = one, other: Any = other, at: Any = sample) -> Any:
            return at.value(one[rows].mean(axis=-2)) - at.value(other[rows].mean(axis=-2))

        drawn = bootstrap(
            (np.arange(300),), apart, n_resamples=2000, batch=100, rng=0, method="percentile"
        )
        ours = sample.replicates[0] - sample.replicates[1]
        assert ours.std(ddof=1) == pytest.approx(drawn.standard_error, rel=0.08)
    sample = Sample.of_scores(scores)
    found = difference(sample, [0], [1])
    swapped = permutation_test(
        tuple(scores), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples",
        vectorized=True, n_resamples=4999, rng=0,
    )  # fmt: skip
    assert found.test == "paired bootstrap" and 0.01 < found.p < 0.3
    assert found.p == pytest.approx(swapped.pvalue, abs=0.02)


def test_mcnemar_is_the_sign_test_of_those_that_disagree() -> None:
    """9 for, 1 against: 2 * (1 + 10) / 2^10."""
    first = np.array([1.0] * 9 + [0.0] + [1.0] * 50)
    second = np.array([0.0] * 9 + [1.0] + [1.0] * 50)
    assert mcnemar(Sample.of_scores([first, second]), 0, 1) == pytest.approx(22 / 1024)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_variance_components_on_a_worked_example() -> None:
    """Examples that vary and seeds that add a constant: each part is found where it is."""
    hard = np.array([0.0, 1.0, 2.0, 3.0])
    scores = np.stack([hard - 1, hard, hard + 1])
    found = spread(Sample.of_scores(scores, bounded=False), [[0, 1, 2]], [1.0])
    assert found.examples == pytest.approx(hard.var(ddof=1) / 4)
    assert found.seeds == pytest.approx(1 / 3)


def test_few_seeds_that_agree_by_luck_do_not_narrow_below_the_t_interval_over_runs() -> None:
    generator = np.random.default_rng(16)
    for _ in range(20):
        sample = Sample.of_scores(latent(generator, 5, 300, 0.6))
        usual = ttest_1samp(sample.values[:2], 0).confidence_interval()
        found = spread(sample, [[0, 1]], [1.0])
        assert found.reach(0.05) >= (usual.high - usual.low) / 2 - 1e-12
        welch = ttest_ind(sample.values[:2], sample.values[2:], equal_var=False)
        both = spread(sample, [[0, 1], [2, 3, 4]], [1.0, -1.0])
        p = both.p_value(float(sample.values[:2].mean() - sample.values[2:].mean()))
        assert p >= welch.pvalue - 1e-12
        # Turned round: where p is the level, the reach ends.
        assert both.p_value(both.reach(0.03)) == pytest.approx(0.03)


def test_what_is_hard_for_both_cancels_in_a_difference() -> None:
    generator = np.random.default_rng(9)
    hard = generator.normal(0, 10, 100)
    first = hard + generator.normal(1, 0.1, 100)
    sample = Sample.of_scores([first, hard], bounded=False)
    found = difference(sample, [0], [1])
    assert found.high - found.low < 0.1
    alone = interval(sample, [0])
    assert alone.high - alone.low > 2


def test_differences_turn_round_with_their_arms() -> None:
    generator = np.random.default_rng(10)
    sample = Sample.of_scores(latent(generator, 6, 300, 0.2))
    there, back = (difference(sample, *arms) for arms in (([0, 1, 2], [3, 4]), ([3, 4], [0, 1, 2])))
    assert there.mean == pytest.approx(-back.mean)
    assert there.p == pytest.approx(back.p)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_equal_runs_are_not_different_and_perfect_ones_have_an_interval() -> None:
    ones = Sample.of_scores(np.ones((2, 50)))
    assert difference(ones, [0], [1]).p == 1.0
    found = interval(ones, [0, 1])
    assert found.high == pytest.approx(1.0) and 0.9 < found.low < 1.0


def test_a_metric_that_is_no_mean_is_resampled() -> None:
    """A ratio of sums: what the bootstrap says agrees with the delta method."""
    generator = np.random.default_rng(11)
    tokens = generator.integers(5, 50, 2000).astype(float)
    nats = tokens * generator.normal(2.0, 0.5, 2000)
    parts = np.stack([nats, tokens], axis=-1)[None]
    sample = Sample(parts, lambda mean: mean[..., 0] / mean[..., 1], bounded=False)
    rest = (nats - nats.sum() / tokens.sum() * tokens) / tokens.mean()
    assert sample.covariance[0, 0] == pytest.approx(rest.var() / 2000, rel=0.08)
