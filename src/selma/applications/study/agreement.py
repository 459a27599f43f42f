"""How far annotators agree beyond chance: Krippendorff's alpha for nominal values. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selma.errors import ConfigError
from selma.randomness import seed_for
from selma.records.scores import Interval


def krippendorff_alpha(counts: ArrayLike) -> float | None:
    """Alpha in [-1, 1]: 1 is full agreement, 0 is chance.

    counts: [units, values], how many annotators gave each value to each unit; missing values are
    allowed. None if fewer than two values are paired, since chance alone would then agree.
    """
    alpha = _alpha(_paired(counts))
    return None if np.isnan(alpha) else alpha


def alpha_interval(
    counts: ArrayLike, *, seed: int, resamples: int = 10_000, level: float = 0.95
) -> Interval | None:
    """Alpha with its percentile bootstrap interval over the units with two or more values."""
    table = _paired(counts)
    alpha = krippendorff_alpha(table)
    if alpha is None:
        return None
    n = len(table)
    draws = np.random.default_rng(seed_for(seed, "alpha", n)).multinomial(
        n, np.full(n, 1 / n), size=resamples
    )
    # A resample with one value only has no alpha, since nobody could disagree in it.
    alphas = [_alpha(np.repeat(table, draw, axis=0)) for draw in draws]
    tails = [(1 - level) / 2, (1 + level) / 2]
    numbers = (alpha, *np.nanquantile(alphas, tails), np.nanstd(alphas))
    mean, low, high, error = (round(float(value), 6) + 0.0 for value in numbers)
    return Interval(mean=mean, low=low, high=high, n=n, standard_error=error if n > 1 else None)


def tally(units: Sequence[Sequence[str]], values: Sequence[str]) -> NDArray[np.int64]:
    """[units, values]: how often each unit was given each value."""
    rows = [[unit.count(value) for value in values] for unit in units]
    return np.asarray(rows, dtype=np.int64).reshape(len(units), len(values))


def _paired(counts: ArrayLike) -> NDArray[np.int64]:
    table = np.asarray(counts, dtype=np.int64)
    if table.ndim != 2:
        raise ValueError(f"counts must be [units, values], but are {table.shape}")
    return table[table.sum(axis=1) >= 2]  # a single value pairs with nothing


def _alpha(table: NDArray[np.int64]) -> float:
    """NaN if fewer than two values occur."""
    if np.count_nonzero(table.sum(axis=0)) < 2:
        return float("nan")
    try:
        import krippendorff
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Agreement is computed by {error.name}, which is not installed: "
            "pip install 'selma[study]'."
        ) from error
    return float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal"))
