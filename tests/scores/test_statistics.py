"""Intervals: agreement with scipy's bootstrap, coverage, and what must always hold."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from scipy.stats import bootstrap

from selma.scores import statistics
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
    benchmarks = [interval(scores(60, seed=s), seed=s, resamples=500) for s in range(200)]
    share = np.mean([i.low <= 80 <= i.high for i in benchmarks])
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


@pytest.mark.parametrize("totals", [[], [[]], [[[1.0]]]])
def test_wrong_shapes_are_refused(totals: list) -> None:
    with pytest.raises(ValueError, match="must be"):
        interval(totals, seed=0)


def test_ten_thousand_resamples_of_320_prompts_take_well_under_a_second() -> None:
    values = scores(320)
    started = time.process_time()
    interval(values, seed=123)
    assert time.process_time() - started < 0.9


def test_win_rate_counts_higher_images_and_half_of_ties() -> None:
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


def test_the_standard_error_is_the_textbooks() -> None:
    values = scores(90)
    found = interval(values, seed=0, resamples=100)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(90), abs=1e-6)
    assert interval([7.0, 7.0], seed=0).standard_error == 0
    assert interval([7.0], seed=0).standard_error is None
    stream = np.random.default_rng(5)
    asked = stream.integers(1, 9, 400)
    got = 100 * stream.binomial(asked, 0.7)
    of_questions = interval(got, asked, seed=0, resamples=4000)
    normal = (of_questions.high - of_questions.low) / (2 * 1.96)
    assert of_questions.standard_error == pytest.approx(normal, rel=0.05)


def several(n: int, m: int, *, seed: int, prompts: float, seeds: float) -> np.ndarray:
    """[n, m] scores about 50 with a part that is the prompt's and one that is each image's."""
    stream = np.random.default_rng(seed)
    return 50 + prompts * stream.normal(size=(n, 1)) + seeds * stream.normal(size=(n, m))


def test_one_seed_in_a_column_is_one_seed() -> None:
    values = scores(50)
    assert interval(values[:, None], seed=3) == interval(values, seed=3)
    asked = np.arange(1, 51)
    assert interval(values[:, None], asked, seed=3) == interval(values, asked, seed=3)


def test_twice_the_same_image_is_no_news() -> None:
    values = scores(80)
    once, twice = interval(values, seed=3), interval(np.stack([values, values], 1), seed=3)
    assert (once.mean, once.standard_error, once.n) == (twice.mean, twice.standard_error, twice.n)
    assert twice.low == pytest.approx(once.low, abs=1e-6)
    assert twice.high == pytest.approx(once.high, abs=1e-6)


def test_the_order_of_seeds_does_not_matter() -> None:
    values = several(60, 3, seed=1, prompts=5, seeds=9)
    found, turned = (interval(v, seed=2) for v in (values, values[:, ::-1]))
    assert found.mean == turned.mean and found.standard_error == turned.standard_error
    assert found.low == pytest.approx(turned.low, abs=0.25)


@pytest.mark.parametrize(("prompts", "seeds"), [(6, 6), (0, 8)])
def test_95_percent_hold_the_truth_wherever_chance_comes_from(prompts: float, seeds: float) -> None:
    benchmarks = [
        interval(several(40, 4, seed=s, prompts=prompts, seeds=seeds), seed=s, resamples=300)
        for s in range(150)
    ]
    share = np.mean([i.low <= 50 <= i.high for i in benchmarks])
    assert 0.88 <= share <= 0.985
    spread = np.std([i.mean for i in benchmarks])
    assert np.mean([i.standard_error for i in benchmarks]) == pytest.approx(spread, rel=0.2)
    widths = np.mean([i.high - i.low for i in benchmarks]) / (2 * 1.96)
    assert widths == pytest.approx(spread, rel=0.2)  # seeds counted twice would make it 1.3


def test_more_seeds_narrow_what_comes_from_seeds_alone() -> None:
    by_seeds = [several(100, m, seed=4, prompts=1, seeds=20) for m in (1, 4)]
    one, four = (interval(values, seed=0) for values in by_seeds)
    assert (four.high - four.low) < 0.7 * (one.high - one.low)
    easy = [several(100, m, seed=4, prompts=20, seeds=1) for m in (1, 4)]
    one, four = (interval(values, seed=0) for values in easy)
    assert (four.high - four.low) > 0.8 * (one.high - one.low)


def test_pairs_are_of_one_prompt_and_one_seed() -> None:
    before = several(60, 3, seed=5, prompts=9, seeds=9)
    gain = paired_difference(before + 2, before, seed=0)
    assert (gain.mean, gain.low, gain.high) == (2, 2, 2)
    assert win_rate(before + 2, before, seed=0).mean == 100
    assert win_rate(before[:, ::-1] + 2, before, seed=0).mean < 90  # pairs of different seeds


@pytest.mark.parametrize("kind", ["shares", "skewed", "questions", "seeds"])
def test_the_expansion_for_very_many_prompts_agrees_with_drawing(kind, monkeypatch) -> None:
    stream = np.random.default_rng(5)
    n, sizes = 600, None
    values = scores(n, share=0.95)
    if kind == "skewed":
        values = stream.exponential(10, n) ** 1.5
    elif kind == "questions":
        sizes = stream.integers(1, 9, n)
        values = 100.0 * stream.binomial(sizes, 0.9)
    elif kind == "seeds":
        values = np.stack([scores(n, seed=s) for s in range(3)], axis=1)
    drawn = interval(values, sizes, seed=1, resamples=40_000)
    monkeypatch.setattr(statistics, "_MANY", 1)
    expanded = interval(values, sizes, seed=1)
    assert expanded.standard_error == drawn.standard_error
    assert expanded.low == pytest.approx(drawn.low, abs=0.08 * drawn.standard_error)
    assert expanded.high == pytest.approx(drawn.high, abs=0.08 * drawn.standard_error)
    if kind == "skewed":  # a plain normal interval would be an eighth of an error off
        middle = (expanded.low + expanded.high) / 2
        assert middle - expanded.mean > 0.1 * drawn.standard_error


def test_a_million_prompts_take_neither_hours_nor_gigabytes() -> None:
    values = scores(1_000_000)
    began = time.process_time()
    tracemalloc.start()
    found = interval(values, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - began < 5
    assert peak < 200e6
    assert found.low < found.mean < found.high


def test_draws_in_small_blocks_are_those_of_one_table(monkeypatch) -> None:
    values = scores(200)
    whole = interval(values, seed=4)
    monkeypatch.setattr(statistics, "_BLOCK_VALUES", 200 * 7)
    monkeypatch.setattr(statistics, "_REMEMBERED", 0)
    assert interval(values, seed=4) == whole
    table = statistics._stream(200, 4, None).integers(0, 200, size=(100, 200))
    monkeypatch.setattr(statistics, "_MANY", 100)
    np.testing.assert_array_equal(np.concatenate([*statistics._draws(200, 4, 100)]), table)
