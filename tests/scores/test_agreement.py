"""Agreement with people: by hand, against scipy, and against the definitions written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from selma.errors import DataError
from selma.scores import statistics
from selma.scores.agreement import agreement, rated
from selma.scores.statistics import interval_by_counts, interval_of

# Two images of each of two prompts.
PROMPTS = ["a", "a", "b", "b"]
SCORES = [0.9, 0.4, 0.5, 0.5]
RATINGS = [5.0, 2.0, 2.0, 4.0]


def drawn(seed: int, prompts: int = 8, models: int = 3) -> tuple[list[str], np.ndarray, np.ndarray]:
    """With ties of both, in a random order."""
    numbers = np.random.default_rng(seed)
    names = [f"p{n}" for n in range(prompts) for _ in range(models)]
    truth = numbers.normal(size=len(names))
    scores = np.round(truth + numbers.normal(size=len(names)), 1)
    ratings = np.clip(np.round(3 + truth), 1, 5)
    order = numbers.permutation(len(names))
    return [names[n] for n in order], scores[order], ratings[order]


def by_definition(scores: np.ndarray, ratings: np.ndarray, tie: float) -> float:
    pairs = list(itertools.combinations(range(len(scores)), 2))
    right = 0
    for i, j in pairs:
        x, y = scores[i] - scores[j], ratings[i] - ratings[j]
        right += (0 if abs(x) <= tie + 1e-12 else np.sign(x)) == np.sign(y)
    return 100 * right / len(pairs)


def test_four_images_by_hand() -> None:
    """Pairs, scores against ratings: 0-1 > >, 0-2 > >, 0-3 > >, 1-2 < =, 1-3 < <, 2-3 = <.
    Four alike, none the other way round, five ordered by each: tau-b = 4 / 5. Ranks 4, 1, 2.5, 2.5
    and 4, 1.5, 1.5, 3: covariance 3.75 of spreads 4.5 and 4.5. At a tie of 0 four of six pairs are
    right; of 0.1 pair 1-2 is, too, and 1-3 no more."""
    result = agreement(PROMPTS, SCORES, RATINGS, resamples=200)
    assert (result.images, result.prompts, result.tie) == (4, 2, 0.0)
    assert result.kendall and result.kendall.mean == pytest.approx(80)
    assert result.spearman and result.spearman.mean == pytest.approx(100 * 3.75 / 4.5)
    # Scores less 0.575: 0.325, -0.175, -0.075, -0.075; ratings less 3.25: 1.75, -1.25, -1.25, 0.75.
    r = (0.325 * 1.75 + 0.175 * 1.25 + 0.075 * 1.25 - 0.075 * 0.75) / np.sqrt(
        (0.325**2 + 0.175**2 + 2 * 0.075**2) * (1.75**2 + 2 * 1.25**2 + 0.75**2)
    )
    assert result.pearson and result.pearson.mean == pytest.approx(100 * r, abs=1e-4)
    assert result.pairwise and result.pairwise.mean == pytest.approx(100 * 4 / 6, abs=1e-4)
    wider = agreement(PROMPTS, SCORES, RATINGS, tie=0.1, resamples=200).pairwise
    assert wider and wider.mean == pytest.approx(100 * 4 / 6, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_measures_are_scipys(seed: int) -> None:
    prompts, scores, ratings = drawn(seed)
    result = agreement(prompts, scores, ratings, resamples=100)
    for measure, reference in (
        (result.spearman, spearmanr), (result.kendall, kendalltau), (result.pearson, pearsonr),
    ):  # fmt: skip
        expected = 100 * reference(scores, ratings).statistic
        assert measure and measure.mean == pytest.approx(expected, abs=1e-4)
        assert measure.n == 8 and measure.low <= measure.mean <= measure.high


@pytest.mark.parametrize("seed", range(5))
def test_the_best_tie_is_best(seed: int) -> None:
    prompts, scores, ratings = drawn(seed)
    result = agreement(prompts, scores, ratings, resamples=100)
    assert result.pairwise and result.tie is not None
    assert result.pairwise.mean == pytest.approx(
        by_definition(scores, ratings, result.tie), abs=1e-4
    )
    best = max(by_definition(scores, ratings, tie) for tie in np.arange(0, 5, 0.05))
    assert result.pairwise.mean == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_is_counted_as_its_copies_are(seed: int) -> None:
    """Spearman's and Pearson's of a prompt drawn twice are scipy's of its images written twice; of
    pairs an image and its copy are left out."""
    prompts, scores, ratings = drawn(seed)
    images = rated(prompts, scores, ratings)
    counts = np.random.default_rng(seed).multinomial(8, [1 / 8] * 8)[None].astype(float)
    times = counts[0].astype(int)[images.number]
    x, y = (np.repeat(values, times) for values in (images.scores, images.ratings))
    assert images.spearman(counts)[0] == pytest.approx(spearmanr(x, y).statistic)
    assert images.pearson(counts)[0] == pytest.approx(pearsonr(x, y).statistic)
    copies = [
        (number, copy, image)
        for image, number in enumerate(images.number)
        for copy in range(int(counts[0][number]))
    ]
    pairs = [
        (one[2], other[2])
        for one, other in itertools.combinations(copies, 2)
        if one[0] != other[0] or one[1] == other[1]
    ]
    signs = np.sign([[v[i] - v[j] for v in (images.scores, images.ratings)] for i, j in pairs])
    tau = (signs.prod(axis=1)).sum() / np.sqrt((signs != 0).sum(axis=0).prod())
    assert images.kendall(counts)[0] == pytest.approx(tau)
    right = (signs[:, 0] == signs[:, 1]).mean()
    assert images.pairwise(0.0)(counts)[0] == pytest.approx(right)


def test_what_is_all_alike_has_no_correlation() -> None:
    result = agreement(PROMPTS, [0.5] * 4, RATINGS, resamples=100)
    assert result.spearman is None and result.kendall is None and result.pearson is None
    assert result.pairwise and result.pairwise.mean == pytest.approx(100 / 6, abs=1e-4)
    with pytest.raises(DataError, match="Three images or more"):
        agreement(["a", "b"], [0, 1], [0, 1])


def test_intervals_cover_the_truth_about_as_often_as_they_should() -> None:
    covered = 0
    for seed in range(120):
        numbers = np.random.default_rng(seed)
        # Images of one prompt are alike: half of what differs is the prompt.
        prompt = np.repeat(numbers.normal(size=60), 3)
        ratings = prompt + numbers.normal(size=180)
        scores = ratings + np.repeat(numbers.normal(size=60), 3) + numbers.normal(size=180)
        names = [f"{n // 3:02}" for n in range(180)]
        interval = interval_by_counts(
            rated(names, scores, ratings).pearson, 60, seed=seed, resamples=1000
        )
        covered += interval.low <= np.sqrt(0.5) <= interval.high
    assert 0.88 < covered / 120 <= 1


def test_sums_and_counts_have_the_same_interval() -> None:
    values = np.random.default_rng(0).gamma(2, size=(40, 1))
    by_sums = interval_of(values, lambda sums: sums[:, 0], seed=3, resamples=500)
    by_counts = interval_by_counts(lambda c: (c @ values)[:, 0], 40, seed=3, resamples=500)
    assert by_sums == by_counts
    mean = statistics.interval(values[:, 0], seed=3, resamples=500)
    assert by_sums.mean == pytest.approx(40 * mean.mean, abs=1e-4)
