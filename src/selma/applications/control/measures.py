"""How well an image follows its condition. Pure: each image contributes sums, and a measure is
computed from their totals, so that all intervals come from resampled images.

Canny and landmarks are means over images; mIoU, mAcc and aAcc are over all images' pixels together,
as is usual for segmentation.
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
"""Landmark errors are in pixels of an image with this side."""


@dataclass(frozen=True)
class Measure:
    """One number of a table."""

    name: str
    label: str
    better: Literal["higher", "lower"]
    digits: int
    sums: Callable[[Row, int], Sequence[float]]
    """(an image's row, number of classes) → its sums."""
    value: Callable[[Totals], Totals]
    """Totals [r, k] → values [r]; NaN where nothing was measured."""


def edge_row(truth: NDArray[np.bool_], generated: NDArray[np.bool_]) -> dict[str, Any]:
    """IoU and F1 of edges, 0..1, both exact to the pixel; None if neither side has an edge (the
    released code gets NaN, and then NaN for the mean)."""
    both, either = int((truth & generated).sum()), int((truth | generated).sum())
    if not either:
        return {"iou": None, "f1": None}
    return {"iou": both / either, "f1": 2 * both / (both + either)}


def class_row(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Row:
    """Each class's pixels: correct, true and predicted ones, where the true class is known."""
    known = truth >= 0
    truth, predicted = truth[known].reshape(-1), predicted[known].reshape(-1)

    def count(pixels: NDArray[np.integer]) -> list[int]:
        return [int(n) for n in np.bincount(pixels, minlength=classes)]

    return {
        "correct": count(truth[truth == predicted]),
        "truth": count(truth),
        "predicted": count(predicted),
    }


def landmark_row(truth: Sequence[Landmark], detected: Sequence[Landmark] | None) -> Row:
    """The mean distance of the landmarks from the detected ones, in pixels of a 512-px image; None,
    a failure, if fewer points of a name were detected than there are.

    Points of one name are matched to minimise their total distance; further points are ignored.
    """
    distances: list[float] = []
    for name in dict.fromkeys(point.name for point in truth):
        points = [point for point in truth if point.name == name]
        candidates = [point for point in detected or () if point.name == name]
        if len(candidates) < len(points):
            return {"error": None}
        distances += _matched(points, candidates)
    return {"error": PAPER_PX * sum(distances) / len(distances) if distances else 0.0}


def _matched(points: Sequence[Landmark], candidates: Sequence[Landmark]) -> list[float]:
    distances = [[math.hypot(a.x - b.x, a.y - b.y) for b in candidates] for a in points]
    if len(points) == len(candidates) == 1:
        return distances[0]
    from scipy.optimize import linear_sum_assignment

    return [distances[i][j] for i, j in zip(*linear_sum_assignment(distances), strict=True)]


def _mean_of(key: str) -> Callable[[Row, int], Sequence[float]]:
    def sums(row: Row, classes: int) -> Sequence[float]:
        value = row[key]
        return (0.0, 0.0) if value is None else (float(value), 1.0)

    return sums


def _class_sums(row: Row, classes: int) -> Sequence[float]:
    return [*row["correct"], *row["truth"], *row["predicted"]]


def _failure(row: Row, classes: int) -> Sequence[float]:
    return (100.0 if row["error"] is None else 0.0, 1.0)


def _ratio(totals: Totals) -> Totals:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(totals[:, 1] > 0, totals[:, 0] / totals[:, 1], np.nan)


def _parts(totals: Totals) -> tuple[Totals, Totals, Totals]:
    correct, truth, predicted = np.split(totals, 3, axis=1)
    return correct, truth, predicted


def _mean_over_classes(numerators: Totals, denominators: Totals) -> Totals:
    """Percent; classes without a pixel do not count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(denominators > 0, numerators / denominators, np.nan)
    counted = (denominators > 0).sum(axis=1)
    total = np.nansum(shares, axis=1)
    return np.where(counted > 0, 100 * total / np.maximum(counted, 1), np.nan)


def _miou(totals: Totals) -> Totals:
    correct, truth, predicted = _parts(totals)
    return _mean_over_classes(correct, truth + predicted - correct)


def _macc(totals: Totals) -> Totals:
    correct, truth, _ = _parts(totals)
    return _mean_over_classes(correct, truth)


def _aacc(totals: Totals) -> Totals:
    correct, truth, _ = _parts(totals)
    return 100 * _ratio(np.stack([correct.sum(axis=1), truth.sum(axis=1)], axis=1))


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
"""By condition; depth, dense pose and sketch have none, since selma has no reader of them."""


def measures_of(condition: str) -> tuple[Measure, ...]:
    """The condition's measures; () for one without a reader."""
    return MEASURES.get(condition, ())


def sums_of(measure: Measure, rows: Sequence[Row], classes: int) -> NDArray[np.float64]:
    """[n, k]: each image's sums."""
    return np.array([measure.sums(row, classes) for row in rows], dtype=np.float64)
