"""Means with standard errors and 95% bootstrap intervals, paired differences, win rates. Pure.

All intervals are BCa (bias-corrected and accelerated; Efron 1987): percentiles of the bootstrap
means, moved for bias and skew, since shares near 100 are skewed. Prompts are resampled, and within
them seeds where each has several images. Equal seed and n mean equal resamples, so that models
are compared on the same resampled benchmarks.

Standard errors are the jackknife's over prompts; of a mean that is s / sqrt(n).

Of very many prompts nothing is drawn: the same intervals come from an expansion in 1 / sqrt(n).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import repeat

# Not scipy's, whose import takes longer than all that is computed here.
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selma.randomness import seed_for
from selma.records.scores import Interval

LEVEL = 0.95
# Draws in one block: 1000 resamples of 1060 prompts are 8 MB as indices of numpy.
_BLOCK = 1000
# Values in one block at most, so that many prompts take fewer rows: 64 MB.
_BLOCK_VALUES = 8_000_000
# From this many prompts on the mean's interval is expanded; what is left out is of order 1 / n,
# while 10,000 resamples leave 1% of the interval to chance, and take hours for a million.
_MANY = 2**16
# Bytes of a table of draws that is remembered.
_REMEMBERED = 32_000_000
# Ways to draw a prompt's seeds again, for each of its seeds.
_WAYS = 64


def interval(
    totals: ArrayLike, sizes: ArrayLike | None = None, *, seed: int, resamples: int = 10_000
) -> Interval:
    """The mean with its standard error and 95% BCa interval over n prompts.

    totals: [n], one value for each prompt, or [n, m], one for each of its m images. With `sizes`
    [n] > 0, each value is a sum over that many questions and the mean is over questions; prompts
    are still resampled, since the questions about one image are not independent. With n = 1 or
    equal values both ends are the mean.
    """
    images = np.asarray(totals, dtype=np.float64)
    images = images[:, None] if images.ndim == 1 else images
    bottom = np.ones(len(images)) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if images.ndim != 2 or not images.size or bottom.shape != images.shape[:1] or bottom.min() <= 0:
        raise ValueError(
            f"totals and sizes must be [n > 0, m] and [n], but are {images.shape}, {bottom.shape}"
        )
    top = images.mean(axis=1)
    mean = float(top.sum() / bottom.sum())
    if len(top) == 1:
        return _interval(mean, mean, mean, None, 1)
    without = (top.sum() - top) / (bottom.sum() - bottom)
    low, high = mean, mean
    # Values that differ by rounding alone are equal: their spread cannot be divided by.
    if np.ptp(top / bottom) > 1e-12 * max(abs(mean), 1.0):
        if len(top) >= _MANY:
            low, high = mean + _expanded(without)
        else:
            means = _bootstrap_means(
                images, None if sizes is None else bottom, mean, seed=seed, resamples=resamples
            )
            low, high = np.quantile(means, _levels(means, mean, without))
    return _interval(mean, low, high, _jackknife_error(without), len(top))


def paired_difference(
    after: ArrayLike,
    before: ArrayLike,
    sizes: ArrayLike | None = None,
    *,
    seed: int,
    resamples: int = 10_000,
) -> Interval:
    """The mean of after - before over the same prompts and seeds, with its interval.

    Pairing removes how easy or hard a prompt is, so that the interval is narrower than two
    separate ones suggest.
    """
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return interval(change, sizes, seed=seed, resamples=resamples)


def interval_of(
    sums: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int,
    resamples: int = 10_000,
) -> Interval:
    """The interval of any statistic of sums over prompts.

    sums: [n, k], each prompt's addends. statistic: totals [r, k] → values [r], NaN where it is
    undefined; such resamples are left out. Raises ValueError if it is undefined on all prompts.
    """
    rows = np.asarray(sums, dtype=np.float64)
    return interval_by_counts(
        lambda counts: statistic(counts @ rows), len(rows), seed=seed, resamples=resamples
    )


def interval_by_counts(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    n: int,
    *,
    seed: int,
    resamples: int = 10_000,
) -> Interval:
    """The interval of any statistic of n prompts, some of which count several times or not at all.

    statistic: how often each prompt counts [r, n] → values [r], NaN where it is undefined; such
    resamples are left out. Raises ValueError if it is undefined on all prompts.
    """
    mean = float(statistic(np.ones((1, n)))[0])
    if not np.isfinite(mean):
        raise ValueError("the statistic has no value on all prompts")
    if n == 1:
        return _interval(mean, mean, mean, None, 1)
    low, high = mean, mean
    values = np.concatenate([statistic(counts) for counts in _counts(n, seed, resamples)])
    values = values[np.isfinite(values)]
    rows = _rows_of_block(n)
    without = np.concatenate(
        [statistic(1 - np.eye(min(rows, n - start), n, start)) for start in range(0, n, rows)]
    )
    without = without[np.isfinite(without)]
    if values.size and without.size and np.ptp(values) > 0 and np.ptp(without) > 0:
        low, high = np.quantile(values, _levels(values, mean, without))
    return _interval(mean, low, high, _jackknife_error(without), n)


def win_rate(
    after: ArrayLike, before: ArrayLike, *, seed: int, resamples: int = 10_000
) -> Interval:
    """Percent of images where `after` is higher, ties counting half, with its interval.

    50 means that neither wins. It does not depend on the scorer's scale.
    """
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return interval(50 * (1 + np.sign(change)), seed=seed, resamples=resamples)


def _interval(mean: float, low: float, high: float, error: float | None, n: int) -> Interval:
    # Six decimals: the same on machines whose sums differ in the last digit; + 0.0 clears -0.0.
    ends = (round(float(value), 6) + 0.0 for value in (mean, low, high))
    numbers = dict(zip(("mean", "low", "high"), ends, strict=True))
    return Interval(**numbers, n=n, standard_error=None if error is None else round(error, 6))


def _jackknife_error(without: NDArray[np.float64]) -> float | None:
    """The standard error from the values with each prompt left out in turn."""
    n = len(without)
    return float(np.sqrt((n - 1) * without.var())) if n > 1 else None


def by_prompt(values: Iterable[float], seeds: int) -> NDArray[np.float64]:
    """[n, seeds] from values image by image, in the order of `records.benchmarks.repeated`."""
    return np.fromiter(values, dtype=np.float64).reshape(-1, seeds)


def _rows_of_block(n: int) -> int:
    return max(1, min(_BLOCK, _BLOCK_VALUES // n))


def _draws(
    n: int, seed: int, resamples: int, *, out_of: int | None = None
) -> Iterator[NDArray[np.intp]]:
    """[block, n], block by block of all resamples: indices of the prompts in each; with `out_of`,
    for each of them the index of one of that many ways to draw its seeds."""
    choices = out_of or n
    rows = _rows_of_block(n)
    if choices >= _MANY:  # the table would have gigabytes; drawn in parts it is the same
        stream = _stream(n, seed, out_of)
        for start in range(0, resamples, rows):
            yield stream.integers(0, choices, size=(min(rows, resamples - start), n))
        return
    table_of = _table if 2 * n * resamples <= _REMEMBERED else _table.__wrapped__
    table = table_of(n, seed, resamples, out_of)
    for start in range(0, resamples, rows):
        yield table[start : start + rows].astype(np.intp)


@lru_cache(maxsize=16)
def _table(n: int, seed: int, resamples: int, out_of: int | None) -> NDArray[np.uint16]:
    # uint16 keeps sixteen cached tables of 320 prompts at 100 MB.
    stream = _stream(n, seed, out_of)
    return stream.integers(0, out_of or n, size=(resamples, n), dtype=np.uint16)


def _stream(n: int, seed: int, out_of: int | None) -> np.random.Generator:
    return np.random.default_rng(seed_for(seed, "bootstrap", n, *([out_of] if out_of else [])))


def _bootstrap_means(
    images: NDArray[np.float64],
    bottom: NDArray[np.float64] | None,
    mean: float,
    *,
    seed: int,
    resamples: int,
) -> NDArray[np.float64]:
    n, m = images.shape
    values = images if m == 1 else _redrawn_seeds(images, bottom, mean, seed)
    ways = repeat(None) if m == 1 else _draws(n, seed, resamples, out_of=values.shape[1])
    means = []
    for block, seeds in zip(_draws(n, seed, resamples), ways, strict=False):
        size = n if bottom is None else bottom[block].sum(axis=1)
        resampled = values[:, 0][block] if seeds is None else values[block, seeds]
        means.append(resampled.sum(axis=1) / size)
    return np.concatenate(means)


def _redrawn_seeds(
    images: NDArray[np.float64], bottom: NDArray[np.float64] | None, mean: float, seed: int
) -> NDArray[np.float64]:
    """[n, ways], each prompt's total when its m images are resampled, in that many ways.

    The spread of the prompts' means already includes the seeds' share, which resampling seeds would
    count twice. So the means are first shrunk towards each other by that share (after Davison &
    Hinkley 1997, Bootstrap Methods, 3.8), which leaves the total spread that of the means.
    """
    m = images.shape[1]
    means = images.mean(axis=1)
    expected = mean * (np.ones_like(means) if bottom is None else bottom)
    apart, within = means - expected, images - means[:, None]
    stream = np.random.default_rng(seed_for(seed, "bootstrap", "seeds", m))
    seeds = np.repeat(np.arange(m), _WAYS)  # each seed equally often in each position
    resampled = sum(within[:, stream.permutation(seeds)] for _ in range(m)) / m
    if not within.any():
        return means[:, None] + resampled
    noise = (within**2).sum() / m**2  # spread of the resampled, a little less than the seeds'
    share = min(1.0, noise * m / (m - 1) / (apart**2).sum())
    scale = np.sqrt(share * (apart**2).sum() / noise)
    return (expected + np.sqrt(1 - share) * apart)[:, None] + scale * resampled


def _counts(n: int, seed: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """[block, n], how often each prompt was drawn in each resample, block by block."""
    for block in _draws(n, seed, resamples):
        cells = block + n * np.arange(len(block))[:, None]
        counts = np.bincount(cells.reshape(-1), minlength=n * len(block)).reshape(len(block), n)
        yield counts.astype(np.float64)


def _expanded(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ends of the BCa interval less the mean, where the bootstrap's quantiles are those of a
    Cornish-Fisher expansion: to order 1 / sqrt(n) bias and acceleration are the same sixth of the
    mean's skewness.

    without: [n], the values with each prompt left out in turn.
    """
    skew, error = _acceleration(without), _jackknife_error(without)
    assert error is not None
    normal = NormalDist()
    ends = [skew + normal.inv_cdf(level) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    moved = np.array([skew + z / (1 - skew * z) for z in ends])
    return error * (moved + skew * (moved**2 - 1))


def _acceleration(without: NDArray[np.float64]) -> float:
    spread = without.mean() - without
    return float((spread**3).sum() / (6 * (spread**2).sum() ** 1.5))


def _levels(
    means: NDArray[np.float64], mean: float, without: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The quantiles of the bootstrap means that are the interval's ends.

    without: [n], the values with each prompt left out in turn.
    """
    # Ties count half: DSG means take few values. Clipped, so that no quantile is infinite.
    below = np.mean(means < mean - 1e-12) + np.mean(np.abs(means - mean) <= 1e-12) / 2
    normal = NormalDist()
    bias = normal.inv_cdf(float(np.clip(below, 1 / len(means), 1 - 1 / len(means))))
    acceleration = _acceleration(without)
    ends = [bias + normal.inv_cdf(level) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    return np.array([normal.cdf(bias + z / (1 - acceleration * z)) for z in ends])
