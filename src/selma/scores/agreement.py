"""How a metric's scores go along with people's ratings of the same images. Pure.

Spearman's rho, Kendall's tau-b, Pearson's r, and the accuracy over pairs of images with ties, as
VQAScore (arXiv:2404.01291) and GenAI-Bench (arXiv:2406.13743) report them: over all images of all
prompts. Intervals resample prompts, each with all its images; an image and its own copy are no
pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selma.errors import DataError
from selma.ids import listed
from selma.records.judges import Agreement
from selma.records.scores import Interval
from selma.scores import statistics
from selma.scores.votes import ImageKey

Array = NDArray[np.float64]
LEAST = 3
"""Images; two are in an order by chance."""
MEASURES = ("spearman", "kendall", "pearson", "pairwise")
"""Of an `Agreement`."""
_DIGITS = 9
"""Of scores and ratings: equal votes are equal, however they were added up."""
_ROWS = 512
"""Rows of the table of all pairs that are in memory at a time."""


def agreement(
    prompts: Sequence[str],
    scores: ArrayLike,
    ratings: ArrayLike,
    *,
    tie: float | None = None,
    seed: int = 0,
    resamples: int = 10_000,
) -> Agreement:
    """How [n] scores of images agree with [n] mean ratings of them.

    prompts: of which each image is.  tie: scores that differ by no more are alike; None takes what
    agrees best on these images, as the published accuracy does. Raises DataError for fewer than
    three images.
    """
    if len(prompts) < LEAST:
        raise DataError(
            f"Three images or more must have a score and a rating, but {len(prompts)} have both."
        )
    images = rated(prompts, scores, ratings)
    tie = images.best_tie() if tie is None else tie

    def percent(statistic: Callable[[Array], Array]) -> Interval | None:
        if not np.isfinite(statistic(np.ones((1, images.prompts)))[0]):
            return None
        return statistics.interval_by_counts(
            lambda counts: 100 * statistic(counts), images.prompts, seed=seed, resamples=resamples
        )

    return Agreement(
        images=len(prompts),
        prompts=images.prompts,
        spearman=percent(images.spearman),
        kendall=percent(images.kendall),
        pearson=percent(images.pearson),
        pairwise=percent(images.pairwise(tie)),
        tie=tie,
    )


def with_both(
    scores: Mapping[ImageKey, float], ratings: Mapping[ImageKey, float]
) -> list[ImageKey]:
    """The images with a score and a rating. Raises DataError if fewer than three have both."""
    images = [image for image in ratings if image in scores]
    if len(images) >= LEAST:
        return images
    alone = [" ".join(image) for image in scores if image not in ratings]
    without = [" ".join(image) for image in ratings if image not in scores]
    raise DataError(
        f"Three images or more must have a score and a rating, but {len(images)} have both."
        + (f" Scores without a rating: {listed(alone, without)}." if alone else "")
        + (f" Ratings without a score: {listed(without, ())}." if without else "")
    )


def rated(prompts: Sequence[str], scores: ArrayLike, ratings: ArrayLike) -> Rated:
    """Images with the prompt, score and mean rating of each."""
    names, numbers = np.unique(np.asarray(prompts), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    by_metric, by_people = (
        np.round(np.asarray(values, dtype=np.float64)[order], _DIGITS)
        for values in (scores, ratings)
    )
    return Rated(numbers[order], len(names), by_metric, by_people)


@dataclass(frozen=True)
class Rated:
    """Images in the order of their prompts; `rated` makes them.

    Its statistics are of how often each prompt counts, [r, prompts] → [r]; NaN where scores or
    ratings are all alike.
    """

    number: NDArray[np.intp]
    """[n], of each image's prompt."""
    prompts: int
    scores: Array
    ratings: Array

    def pearson(self, counts: Array) -> Array:
        """Pearson's r."""
        x, y = (values - values.mean() for values in (self.scores, self.ratings))
        addends = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
        sums = np.zeros((self.prompts, 6))
        np.add.at(sums, self.number, addends)
        return _correlation(*(counts @ sums).T)

    def spearman(self, counts: Array) -> Array:
        """Spearman's rho: Pearson's r of ranks, equal values sharing the mean of theirs."""
        weights = counts[:, self.number]
        x, y = (_ranks(values, weights) for values in (self.scores, self.ratings))
        addends = (np.ones_like(x), x, y, x * x, y * y, x * y)
        return _correlation(*((weights * each).sum(axis=1) for each in addends))

    def kendall(self, counts: Array) -> Array:
        """Kendall's tau-b."""
        agreeing, by_metric, by_people = (_over_pairs(table, counts) for table in self._signs)
        with np.errstate(invalid="ignore", divide="ignore"):
            return agreeing / np.sqrt(by_metric * by_people)

    def pairwise(self, tie: float) -> Callable[[Array], Array]:
        """The share of pairs on which scores and ratings agree; see `agreement`."""
        right, every = np.zeros((2, self.prompts, self.prompts))
        for rows, scores, ratings in self._pairs():
            order = np.where(np.abs(scores) <= tie, 0, np.sign(scores))
            right[rows] += self._by_prompt(order == np.sign(ratings))
            every[rows] += self._by_prompt(np.ones_like(order))
        # An image beside itself is alike by both.
        itself = np.diag(np.bincount(self.number, minlength=self.prompts)).astype(np.float64)

        def share(counts: Array) -> Array:
            with np.errstate(invalid="ignore", divide="ignore"):
                return _over_pairs(right - itself, counts) / _over_pairs(every - itself, counts)

        return share

    def best_tie(self) -> float:
        """The least difference of scores that counts as none with which most pairs agree."""
        alike, ordered = [np.zeros(0)], [np.zeros(0)]
        for start in range(0, len(self.scores), _ROWS):
            stop = min(start + _ROWS, len(self.scores))
            # Each pair once: of later images alone.
            later = np.arange(len(self.scores)) > np.arange(start, stop)[:, None]
            scores = (self.scores - self.scores[start:stop, None])[later]
            ratings = (self.ratings - self.ratings[start:stop, None])[later]
            alike.append(np.abs(scores[ratings == 0]))
            ordered.append(np.abs(scores[scores * ratings > 0]))
        same, right = np.sort(np.concatenate(alike)), np.sort(np.concatenate(ordered))
        ties = np.unique(np.round(np.concatenate([[0.0], same]), _DIGITS))
        within = np.searchsorted(same, ties + 10.0**-_DIGITS, side="left")
        beyond = len(right) - np.searchsorted(right, ties + 10.0**-_DIGITS, side="left")
        return float(ties[int(np.argmax(within + beyond))])

    @cached_property
    def _signs(self) -> tuple[Array, Array, Array]:
        """Three tables [prompts, prompts] of sums over pairs of images: +1 where scores and ratings
        order them alike and -1 where not, and 1 where scores, and ratings, order them at all."""
        tables = np.zeros((3, self.prompts, self.prompts))
        for rows, scores, ratings in self._pairs():
            x, y = np.sign(scores), np.sign(ratings)
            for table, values in zip(tables, (x * y, x * x, y * y), strict=True):
                table[rows] += self._by_prompt(values)
        return tables[0], tables[1], tables[2]

    def _pairs(self) -> Iterator[tuple[int, Array, Array]]:
        """A prompt's number with the differences [k, n] of its k images to all: of scores, and of
        ratings."""
        for number in range(self.prompts):
            own = self.number == number
            yield (
                number,
                np.round(self.scores[own, None] - self.scores, _DIGITS),
                np.round(self.ratings[own, None] - self.ratings, _DIGITS),
            )

    def _by_prompt(self, values: NDArray[np.generic]) -> Array:
        """[prompts], sums of [k, n] over the images of each."""
        sums = values.sum(axis=0, dtype=np.float64)
        return np.bincount(self.number, weights=sums, minlength=self.prompts).astype(np.float64)


def _ranks(values: Array, weights: Array) -> Array:
    """[r, n], the rank of each value where each is there as often as its weight [r, n] says."""
    kinds, kind = np.unique(values, return_inverse=True)
    order = np.argsort(kind, kind="stable")
    starts = np.searchsorted(kind[order], np.arange(len(kinds)))
    each = np.add.reduceat(weights[:, order], starts, axis=1)
    below = np.cumsum(each, axis=1) - each
    return (below + (each + 1) / 2)[:, kind]


def _correlation(n: Array, x: Array, y: Array, xx: Array, yy: Array, xy: Array) -> Array:
    """Pearson's r of weighted sums."""
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.clip(xx - x * x / n, 0, None) * np.clip(yy - y * y / n, 0, None)
        # What is left of equal values by rounding is no spread.
        spread = np.where(spread > 1e-18 * np.abs(xx * yy), spread, np.nan)
        return (xy - x * y / n) / np.sqrt(spread)


def _over_pairs(table: Array, counts: Array) -> Array:
    """The sum over unordered pairs of images; table: [prompts, prompts], sums over ordered ones. Of
    a prompt that counts twice no image is paired with its own copy or with its fellows' copies."""
    within = np.diag(table)
    return (((counts @ table) * counts).sum(axis=1) - counts**2 @ within + counts @ within) / 2
