"""Measures of control by hand-made cases, and against plain definitions."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from selma.applications.control import scoring
from selma.applications.control.measures import (
    class_row,
    edge_row,
    landmark_row,
    measures_of,
    sums_of,
)
from selma.applications.control.records import ControlSample
from selma.applications.control.settings import ControlScoring
from selma.records.landmarks import Landmark
from selma.scores.distances import frechet_distance
from selma.scores.statistics import interval, interval_of, paired_difference
from selma.workspace import Workspace

MIOU, MACC, AACC = measures_of("segmentation")
ERROR, FAILURES = measures_of("landmarks")


def total(measure, rows, classes=0):
    return float(measure.value(sums_of(measure, rows, classes).sum(axis=0)[None])[0])


def test_edges_by_hand():
    truth = np.array([[1, 1, 0], [0, 0, 0]], dtype=bool)
    generated = np.array([[1, 0, 1], [0, 0, 0]], dtype=bool)
    assert edge_row(truth, truth) == {"iou": 1.0, "f1": 1.0}
    assert edge_row(truth, generated) == {"iou": 1 / 3, "f1": 2 / 4}
    assert edge_row(truth, np.zeros_like(truth)) == {"iou": 0.0, "f1": 0.0}
    assert edge_row(np.zeros_like(truth), np.zeros_like(truth)) == {"iou": None, "f1": None}


def test_images_without_edges_are_left_out():
    iou, _ = measures_of("canny")
    rows = [{"iou": 0.5, "f1": 0.6}, {"iou": None, "f1": None}, {"iou": 0.1, "f1": 0.2}]
    assert total(iou, rows) == pytest.approx(0.3)
    assert np.isnan(total(iou, rows[1:2]))


def test_accuracies_by_hand():
    """Class 2 is nowhere, so that it does not count; -1 is no class's colour."""
    truth = np.array([[0, 0, 0, 1], [1, -1, 0, 0]])
    predicted = np.array([[0, 0, 1, 1], [0, 1, 0, 0]])
    row = class_row(truth, predicted, 3)
    assert row == {"correct": [4, 1, 0], "truth": [5, 2, 0], "predicted": [5, 2, 0]}
    assert total(MIOU, [row], 3) == pytest.approx(100 * (4 / 6 + 1 / 3) / 2)
    assert total(MACC, [row], 3) == pytest.approx(100 * (4 / 5 + 1 / 2) / 2)
    assert total(AACC, [row], 3) == pytest.approx(100 * 5 / 7)


def test_accuracies_are_of_all_pixels_together():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (2, 6, 8, 8))
    rows = [class_row(t, p, 5) for t, p in zip(truth, predicted, strict=True)]
    together = class_row(truth, predicted, 5)
    for measure in (MIOU, MACC, AACC):
        assert total(measure, rows, 5) == pytest.approx(total(measure, [together], 5))
    iou = [((truth == c) & (predicted == c)).sum() / ((truth == c) | (predicted == c)).sum()
           for c in range(5)]  # fmt: skip
    assert total(MIOU, rows, 5) == pytest.approx(100 * np.mean(iou))


def points(*named):
    return [Landmark(name=name, x=x, y=y) for name, x, y in named]


def test_landmarks_of_one_name_are_matched_for_the_least_distance():
    truth = points(("dog", 0.2, 0.2), ("dog", 0.6, 0.2), ("cup", 0.5, 0.9))
    detected = points(("cup", 0.5, 0.9), ("dog", 0.6, 0.2), ("dog", 0.2, 0.25))
    assert landmark_row(truth, truth) == {"error": 0.0}
    assert landmark_row(truth, detected)["error"] == pytest.approx(512 * 0.05 / 3)
    # Further points are ignored, missing ones are a failure.
    assert landmark_row(truth, [*detected, *points(("dog", 0.9, 0.9))])["error"] == pytest.approx(
        512 * 0.05 / 3
    )
    assert landmark_row(truth, detected[:2]) == {"error": None}
    assert landmark_row(truth, None) == {"error": None}


def test_failures_count_and_do_not_move_the_error():
    rows = [{"error": 10.0}, {"error": None}, {"error": 20.0}, {"error": None}]
    assert total(ERROR, rows) == 15.0
    assert total(FAILURES, rows) == 50.0


def test_an_interval_of_sums_is_the_interval_of_a_mean():
    rng = np.random.default_rng(1)
    values, others = rng.normal(size=(2, 40))
    sums = np.stack([values, np.ones(40)], axis=1)

    def mean(totals):
        return totals[:, 0] / totals[:, 1]

    how = {"seed": 3, "resamples": 2000}
    assert interval_of(sums, mean, **how) == interval(values, **how)
    both = np.stack([values, others, np.ones(40)], axis=1)
    assert interval_of(both, lambda t: (t[:, 0] - t[:, 1]) / t[:, 2], **how) == (
        paired_difference(values, others, **how)
    )


def test_an_interval_of_sums_is_honest_at_its_ends():
    how = {"seed": 0, "resamples": 500}
    rows = [class_row(np.zeros((2, 2), int), np.zeros((2, 2), int), 2)] * 4
    miou = interval_of(sums_of(MIOU, rows, 2), MIOU.value, **how)
    assert (miou.mean, miou.low, miou.high, miou.n) == (100.0, 100.0, 100.0, 4)
    with pytest.raises(ValueError, match="no value"):
        interval_of(sums_of(ERROR, [{"error": None}], 0), ERROR.value, **how)
    # One image of two has a value: resamples of the other alone are left out.
    error = interval_of(sums_of(ERROR, [{"error": None}, {"error": 5.0}], 0), ERROR.value, **how)
    assert (error.mean, error.low, error.high) == (5.0, 5.0, 5.0)


def test_the_frechet_distance_of_gaussians():
    """Closed form: means m apart and deviations s and t in each direction, which commute."""
    base = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base = (base - base.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(base.T))).mT
    deviations = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    other = base * deviations + 2.0
    expected = 3 * 2.0**2 + float(((deviations - 1) ** 2).sum())
    assert frechet_distance(base, other) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(base, base) == pytest.approx(0.0, abs=1e-3)


def test_few_images_are_open_while_distances_are_taken(tmp_path, monkeypatch):
    samples = []
    for number in range(70):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (number, 2 * number, 0)).save(path)
        sample = {"id": str(number), "image": path, "conditioning_image": path, "source": "x"}
        samples.append(ControlSample.model_validate({"text": "a cat", **sample}))
    open_now, most = set(), []

    def opened(path):
        image = Image.open(path).copy()
        weakref.finalize(image, open_now.discard, path)
        open_now.add(path)
        most.append(len(open_now))
        return image

    monkeypatch.setattr(scoring, "open_image", opened)

    class Mean:
        name = fingerprint = "mean"

        def see(self, images):
            return torch.stack([torch.tensor(np.asarray(i)).float().mean((0, 1)) for i in images])

    scorer = scoring.Scorer(
        samples, ControlScoring(), Workspace(tmp_path), "canny", palette=None, canny=(1, 2), seed=0
    )
    scorer._features = Mean()
    vectors = scorer._features_of(scoring.SOURCE_IMAGES)
    assert vectors[:, 1].tolist() == [2.0 * number for number in range(70)]
    assert len(most) == 70 and max(most) <= 33
