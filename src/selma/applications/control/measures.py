"""How well an image keeps to its condition. Pure: each image gives sums, and a measure is made of
their totals, so that all intervals come from resampled images.

Canny and landmarks are means over images; mIoU and its like are made of all images' pixels
together, as segmentation is scored everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selma.records.landmarks import Landmark

Row = Mapping[str, Any]
Totals = NDArray[np.float64]

PAPER_PX = 512
"""Landmark errors are told as if every image had this side."""


@dataclass(frozen=True)
class Measure:
    """One number of a table."""

    name: str
    label: str
    better: Literal["higher", "lower"]
    digits: int
    sums: Callable[[Row, int], Sequence[float]]
    """(an image's row, how many classes there are) → what it adds."""
    value: Callable[[Totals], Totals]
    """Totals [r, k] → values [r]; NaN where nothing was measured."""


def edge_row(truth: NDArray[np.bool_], generated: NDArray[np.bool_]) -> dict[str, Any]:
    """IoU and F1 of edges, 0..1, both exact to the pixel; None where neither side has an edge
    (the released code gets NaN, and with it a NaN for the whole)."""
    both, either = int((truth & generated).sum()), int((truth | generated).sum())
    if not either:
        return {"iou": None, "f1": None}
    return {"iou": both / either, "f1": 2 * both / (both + either)}


def class_row(truth: NDArray[np.integer], said: NDArray[np.integer], classes: int) -> Row:
    """Pixels of each class that are right, there, and told; those of no known class left out."""
    known = truth >= 0
    truth, said = truth[known].reshape(-1), said[known].reshape(-1)

    def count(which: NDArray[np.integer]) -> list[int]:
        return [int(n) for n in np.bincount(which, minlength=classes)]

    return {"right": count(truth[truth == said]), "there": count(truth), "told": count(said)}


def landmark_row(truth: Sequence[Landmark], found: Sequence[Landmark] | None) -> Row:
    """The mean distance of each point from what was found of its name, in px of an image of 512;
    None, a failure, where fewer of a name were found than must be there.

    Points of one name are matched so that their distances are least in all; more than must be
    there do no harm.
    """
    away: list[float] = []
    for name in dict.fromkeys(point.name for point in truth):
        mine = [point for point in truth if point.name == name]
        theirs = [point for point in found or () if point.name == name]
        if len(theirs) < len(mine):
            return {"error": None}
        away += _matched(mine, theirs)
    return {"error": PAPER_PX * sum(away) / len(away) if away else 0.0}


def _matched(mine: Sequence[Landmark], theirs: Sequence[Landmark]) -> list[float]:
    distances = [[math.hypot(a.x - b.x, a.y - b.y) for b in theirs] for a in mine]
    if len(mine) == len(theirs) == 1:
        return distances[0]
    from scipy.optimize import linear_sum_assignment

    return [distances[i][j] for i, j in zip(*linear_sum_assignment(distances), strict=True)]


def _mean_of(key: str) -> Callable[[Row, int], Sequence[float]]:
    def sums(row: Row, classes: int) -> Sequence[float]:
        value = row[key]
        return (0.0, 0.0) if value is None else (float(value), 1.0)

    return sums


def _class_sums(row: Row, classes: int) -> Sequence[float]:
    return [*row["right"], *row["there"], *row["told"]]


def _failure(row: Row, classes: int) -> Sequence[float]:
    return (100.0 if row["error"] is None else 0.0, 1.0)


def _ratio(totals: Totals) -> Totals:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(totals[:, 1] > 0, totals[:, 0] / totals[:, 1], np.nan)


def _parts(totals: Totals) -> tuple[Totals, Totals, Totals]:
    right, there, told = np.split(totals, 3, axis=1)
    return right, there, told


def _mean_over_classes(top: Totals, bottom: Totals) -> Totals:
    """Percent; classes without a pixel do not count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(bottom > 0, top / bottom, np.nan)
    counted = (bottom > 0).sum(axis=1)
    total = np.nansum(shares, axis=1)
    return np.where(counted > 0, 100 * total / np.maximum(counted, 1), np.nan)


def _miou(totals: Totals) -> Totals:
    right, there, told = _parts(totals)
    return _mean_over_classes(right, there + told - right)


def _macc(totals: Totals) -> Totals:
    right, there, _ = _parts(totals)
    return _mean_over_classes(right, there)


def _aacc(totals: Totals) -> Totals:
    right, there, _ = _parts(totals)
    return 100 * _ratio(np.stack([right.sum(axis=1), there.sum(axis=1)], axis=1))


MEASURES: dict[str, tuple[Measure, ...]] = {
    "canny": (
        Measure("iou", "IoU", "higher", 3, _mean_of("iou"), _ratio),
        Measure("f1", "F1", "higher", 3, _mean_of("f1"), _ratio),
    ),
    "segmentation": (
        Measure("miou", "mIoU", "higher", 1, _class_sums, _miou),
        Measure("macc", "mAcc", "higher", 1, _class_sums, _macc),
        Measure("aacc", "aAcc", "higher", 1, _class_sums, _aacc),
    ),
    "landmarks": (
        Measure("error", "error, px of 512", "lower", 2, _mean_of("error"), _ratio),
        Measure("failures", "failures, %", "lower", 1, _failure, _ratio),
    ),
}
"""By condition; depth, dense pose and sketch have none: no reader of theirs is here."""


def measures_of(condition: str) -> tuple[Measure, ...]:
    return MEASURES.get(condition, ())


def sums_of(measure: Measure, rows: Sequence[Row], classes: int) -> NDArray[np.float64]:
    """[n, k] what each image adds."""
    return np.array([measure.sums(row, classes) for row in rows], dtype=np.float64)
