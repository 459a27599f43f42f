"""Means with 95% bootstrap intervals over prompts, paired differences, win rates. Pure.

All intervals are BCa (bias-corrected and accelerated; Efron 1987): percentiles of the bootstrap
means, moved for bias and skew, since shares near 100 are skewed. Equal seed and n mean equal
resamples, so that models are compared on the same resampled exams.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

# Not scipy's, whose import takes longer than all that is computed here.
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selma.randomness import seed_for
from selma.records import Interval

LEVEL = 0.95
# Draws in one block: 1000 resamples of 1060 prompts are 8 MB as indices of numpy.
_BLOCK = 1000


def interval(
    totals: ArrayLike, sizes: ArrayLike | None = None, *, seed: int, resamples: int = 10_000
) -> Interval:
    """The mean with its 95% BCa interval over n prompts.

    totals: [n], one value for each prompt. With `sizes` [n] > 0 a prompt's value is a sum over that
    many questions, and the mean is one over questions while prompts are resampled (the questions
    of one picture are no independent trials). With n = 1 or equal values both ends are the mean.
    """
    top = np.asarray(totals, dtype=np.float64)
    bottom = np.ones_like(top) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if top.ndim != 1 or top.shape != bottom.shape or not len(top) or bottom.min() <= 0:
        raise ValueError(f"totals and sizes must be [n > 0], but are {top.shape}, {bottom.shape}")
    mean = float(top.sum() / bottom.sum())
    low, high = mean, mean
    # What differs by rounding alone is equal: its spread cannot be divided by.
    if np.ptp(top / bottom) > 1e-12 * max(abs(mean), 1.0):
        means = _bootstrap_means(top, None if sizes is None else bottom, seed, resamples)
        low, high = np.quantile(means, _bca_levels(means, mean, top, bottom))
    # Six decimals: the same on machines whose sums differ in the last digit; + 0.0 clears -0.0.
    values = (round(float(value), 6) + 0.0 for value in (mean, low, high))
    return Interval(**dict(zip(("mean", "low", "high"), values, strict=True)), n=len(top))


def paired_difference(
    after: ArrayLike,
    before: ArrayLike,
    sizes: ArrayLike | None = None,
    *,
    seed: int,
    resamples: int = 10_000,
) -> Interval:
    """The mean of after - before over the same prompts, with its interval. Pairing takes out what
    makes prompts easy or hard, so that the interval is narrower than two separate ones suggest."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return interval(change, sizes, seed=seed, resamples=resamples)


def interval_of(
    sums: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int,
    resamples: int = 10_000,
) -> Interval:
    """As `interval`, of any number that is made of sums over prompts.

    sums: [n, k], what each prompt adds.  statistic: totals [r, k] → values [r], NaN where it is not
    defined; resamples without a value are left out. Raises ValueError if the whole has none.
    """
    rows = np.asarray(sums, dtype=np.float64)
    mean = float(statistic(rows.sum(axis=0)[None])[0])
    if not np.isfinite(mean):
        raise ValueError("the statistic has no value on all prompts")
    low, high = mean, mean
    values = statistic(_bootstrap_sums(rows, seed, resamples))
    values = values[np.isfinite(values)]
    without = statistic(rows.sum(axis=0) - rows)
    without = without[np.isfinite(without)]
    if np.ptp(values) > 0 and np.ptp(without) > 0:
        low, high = np.quantile(values, _levels(values, mean, without))
    ends = (round(float(value), 6) + 0.0 for value in (mean, low, high))
    return Interval(**dict(zip(("mean", "low", "high"), ends, strict=True)), n=len(rows))


def win_rate(
    after: ArrayLike, before: ArrayLike, *, seed: int, resamples: int = 10_000
) -> Interval:
    """Percent of prompts where `after` is the higher one, a tie counting half, with its interval:
    50 where neither wins. What a scorer's scale is does not matter to it."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return interval(50 * (1 + np.sign(change)), seed=seed, resamples=resamples)


@lru_cache(maxsize=16)
def _draws(n: int, seed: int, resamples: int) -> NDArray[np.uint16 | np.int64]:
    """[resamples, n] positions of the prompts in each resample."""
    stream = np.random.default_rng(seed_for(seed, "bootstrap", n))
    # uint16 keeps sixteen cached tables of 320 prompts at 100 MB.
    return stream.integers(0, n, size=(resamples, n), dtype=np.uint16 if n < 2**16 else np.int64)


def _bootstrap_means(
    top: NDArray[np.float64], bottom: NDArray[np.float64] | None, seed: int, resamples: int
) -> NDArray[np.float64]:
    draws = _draws(len(top), seed, resamples)
    means = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        block = draws[start : start + _BLOCK].astype(np.intp)
        size = len(top) if bottom is None else bottom[block].sum(axis=1)
        means[start : start + _BLOCK] = top[block].sum(axis=1) / size
    return means


def _bootstrap_sums(rows: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """[resamples, k] the totals of each resample."""
    n = len(rows)
    draws, totals = _draws(n, seed, resamples), []
    for start in range(0, resamples, _BLOCK):
        block = draws[start : start + _BLOCK].astype(np.intp)
        # How often each prompt was drawn: one product instead of k gathered tables.
        places = block + n * np.arange(len(block))[:, None]
        often = np.bincount(places.reshape(-1), minlength=n * len(block)).reshape(len(block), n)
        totals.append(often @ rows)
    return np.concatenate(totals)


def _bca_levels(
    means: NDArray[np.float64], mean: float, top: NDArray[np.float64], bottom: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The two quantiles of the bootstrap means between which the interval lies."""
    return _levels(means, mean, (top.sum() - top) / (bottom.sum() - bottom))


def _levels(
    means: NDArray[np.float64], mean: float, without: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The same, where `without` [n] has the value without each prompt in turn."""
    # Ties count half: DSG means take few values. Clipped, so that no quantile is infinite.
    below = np.mean(means < mean - 1e-12) + np.mean(np.abs(means - mean) <= 1e-12) / 2
    normal = NormalDist()
    bias = normal.inv_cdf(float(np.clip(below, 1 / len(means), 1 - 1 / len(means))))
    spread = without.mean() - without
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    ends = [bias + normal.inv_cdf(level) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    return np.array([normal.cdf(bias + z / (1 - acceleration * z)) for z in ends])
