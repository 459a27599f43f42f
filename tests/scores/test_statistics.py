"""Intervals: agreement with scipy's bootstrap, coverage, and what must always hold."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import bootstrap

from selma.scores.statistics import interval, paired_difference, win_rate


def scores(n: int, *, seed: int = 0, share: float = 0.8) -> np.ndarray:
    """Like DSG scores: shares of a few questions, 0-100."""
    stream = np.random.default_rng(seed)
    return 100 * stream.binomial(4, share, n) / 4


def test_agrees_with_scipys_bca() -> None:
    values = scores(120, share=0.9)
    ours = interval(values, seed=1)
    theirs = bootstrap(
        (values,), np.mean, n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.25)
    assert ours.high == pytest.approx(theirs.high, abs=0.25)


def test_agrees_with_scipys_bca_for_a_mean_over_questions() -> None:
    stream = np.random.default_rng(3)
    asked = stream.integers(1, 9, 150)
    got = stream.binomial(asked, 0.7)
    ours = interval(100 * got, asked, seed=1)
    theirs = bootstrap(
        (got, asked),
        lambda x, y, axis=-1: 100 * x.sum(axis=axis) / y.sum(axis=axis),
        paired=True,
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert ours.mean == pytest.approx(100 * got.sum() / asked.sum())
    assert ours.low == pytest.approx(theirs.low, abs=0.3)
    assert ours.high == pytest.approx(theirs.high, abs=0.3)


def test_95_percent_of_the_intervals_hold_the_truth() -> None:
    exams = [interval(scores(60, seed=s), seed=s, resamples=500) for s in range(200)]
    share = np.mean([i.low <= 80 <= i.high for i in exams])
    assert 0.90 <= share <= 0.99  # three standard errors of 200 trials round 0.95


def test_pairing_narrows_the_interval_and_keeps_the_mean() -> None:
    before = scores(200)
    after = np.clip(before + 5, 0, 100)
    paired = paired_difference(after, before, seed=0)
    assert paired.mean == pytest.approx((after - before).mean(), abs=1e-6)
    unpaired = interval(after, seed=0)
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2
    assert paired.low > 0


def test_same_seed_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).normal(50, 9, 50)
    assert interval(values, seed=4) == interval(values, seed=4)
    assert interval(values, seed=4) != interval(values, seed=5)


@pytest.mark.parametrize("values", [[7.0], [50.0] * 9])
def test_nothing_to_resample_gives_the_mean_itself(values: list[float]) -> None:
    found = interval(values, seed=0)
    assert (found.low, found.high, found.n) == (values[0], values[0], len(values))


def test_a_single_miss_among_hits_stays_finite_and_ordered() -> None:
    found = interval([0.0] + [100.0] * 30, seed=0)
    assert 80 < found.low <= found.mean <= found.high <= 100


@pytest.mark.parametrize("totals", [[], [[1.0]]])
def test_wrong_shapes_are_refused(totals: list) -> None:
    with pytest.raises(ValueError, match="must be"):
        interval(totals, seed=0)


def test_ten_thousand_resamples_of_320_prompts_take_well_under_a_second() -> None:
    values = scores(320)
    started = time.process_time()
    interval(values, seed=123)
    assert time.process_time() - started < 0.9


def test_win_rate_counts_higher_pictures_and_half_of_ties() -> None:
    after, before = [1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 5.0, -7.0]
    found = win_rate(after, before, seed=0)
    assert (found.mean, found.n) == (62.5, 4)
    assert found.low < 62.5 < found.high
    assert win_rate(after, after, seed=0).mean == 50
    assert win_rate(before, after, seed=0).mean == 37.5


def test_win_rate_knows_no_scale() -> None:
    stream = np.random.default_rng(0)
    after, before = stream.normal(size=60), stream.normal(size=60)
    found = win_rate(after, before, seed=4)
    assert win_rate(np.exp(3 * after), np.exp(3 * before), seed=4) == found
    mirrored = win_rate(before, after, seed=4)
    assert mirrored.mean == pytest.approx(100 - found.mean)
    assert mirrored.low == pytest.approx(100 - found.high, abs=2)
