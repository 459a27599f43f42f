"""How far annotators agree beyond chance: Krippendorff's alpha for nominal values. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selma.randomness import seed_for
from selma.records.scores import Interval


def krippendorff_alpha(counts: ArrayLike) -> float | None:
    """Alpha in [-1, 1]: 1 is full agreement, 0 what chance would give.

    counts: [units, values], how many annotators gave each value to each unit; who did not see a
    unit just does not count in it. None where fewer than two values are paired, since chance alone
    would then agree. Source: K. Krippendorff, "Computing Krippendorff's Alpha-Reliability"
    (2011), nominal data, section C:

        alpha = 1 - D_o / D_e
              = ((n - 1) sum_c o_cc - sum_c n_c (n_c - 1)) / (n (n - 1) - sum_c n_c (n_c - 1))
        o_cc = sum_u n_uc (n_uc - 1) / (m_u - 1)
    """
    same, values = _terms(_table(counts))
    found = _alpha(same.sum(keepdims=True), values.sum(axis=0, keepdims=True))[0]
    return None if np.isnan(found) else float(found)


def alpha_interval(
    counts: ArrayLike, *, seed: int, resamples: int = 10_000, level: float = 0.95
) -> Interval | None:
    """Alpha with its percentile bootstrap interval over the units that two or more judged."""
    table = _table(counts)
    alpha = krippendorff_alpha(table)
    if alpha is None:
        return None
    same, values = _terms(table)
    n = len(same)
    draws = np.random.default_rng(seed_for(seed, "alpha", n)).multinomial(
        n, np.full(n, 1 / n), size=resamples
    )
    # A resample of one value only has no alpha, as nobody could have disagreed in it.
    tails = [(1 - level) / 2, (1 + level) / 2]
    again = _alpha(draws @ same, draws @ values)
    numbers = (alpha, *np.nanquantile(again, tails), np.nanstd(again))
    mean, low, high, error = (round(float(value), 6) + 0.0 for value in numbers)
    return Interval(mean=mean, low=low, high=high, n=n, standard_error=error if n > 1 else None)


def tally(units: Sequence[Sequence[str]], values: Sequence[str]) -> NDArray[np.int64]:
    """[units, values] counts of the values that each unit was given."""
    rows = [[given.count(value) for value in values] for given in units]
    return np.asarray(rows, dtype=np.int64).reshape(len(units), len(values))


def _table(counts: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"counts must be [units, values], but are {table.shape}")
    return table[table.sum(axis=1) >= 2]  # a unit that one alone judged pairs with nothing


def _terms(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each unit its part of sum_c o_cc, and its n_c."""
    diagnostics = table.sum(axis=1, keepdims=True)
    return (table * (table - 1) / (diagnostics - 1)).sum(axis=1), table


def _alpha(same: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[resamples] from sums over units: same [resamples], values [resamples, values]."""
    n = values.sum(axis=1)
    by_chance = (values * (values - 1)).sum(axis=1)
    room = n * (n - 1) - by_chance
    room[room == 0] = np.nan
    found: NDArray[np.float64] = ((n - 1) * same - by_chance) / room
    return found
