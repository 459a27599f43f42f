"""How well a metric agrees with people: rank correlation of its scores with their ratings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from selma.errors import DataError
from selma.scores import faithfulness
from selma.scores.benchmarks import read_dsg
from selma.scores.given import DsgRules, answers_by_model, judge_given
from selma.scores.rows import csv_rows

Place = tuple[str, str]
"""Model and prompt: one picture."""


def read_ratings(path: Path) -> dict[Place, float]:
    """Mean rating of each picture, from a CSV with t2i_model, item_id and answer (a number), one
    row for each annotator. Raises DataError."""
    ratings: dict[Place, list[float]] = defaultdict(list)
    for _, row in csv_rows(path, ("t2i_model", "item_id", "answer")):
        try:
            rating = float(row["answer"])
        except ValueError as error:
            raise DataError(
                f"{path}: a rating must be a number, but {row['item_id']} has {row['answer']!r}."
            ) from error
        ratings[row["t2i_model"], row["item_id"]].append(rating)
    return {place: sum(of_one) / len(of_one) for place, of_one in ratings.items()}


def dsg_agreement(
    annotations: Path, answers: Path, ratings: Path, *, rules: DsgRules
) -> dict[str, float | int]:
    """The correlation of DSG scores with ratings of the same pictures: see `correlation`.

    annotations: CSV in DSG-1k's layout. answers: as `given.read_answers`, of one model or several.
    ratings: as `read_ratings`. Raises DataError.
    """
    exam = read_dsg(annotations, dependencies=rules.dependencies)
    scores: dict[Place, float] = {}
    for model, given in answers_by_model(answers).items():
        _, verdicts = judge_given(exam, given, rules=rules)
        for item, share in faithfulness.prompt_scores(verdicts).items():
            scores[model, item] = share
    return correlation(scores, read_ratings(ratings))


def correlation(
    scores: Mapping[Place, float], ratings: Mapping[Place, float]
) -> dict[str, float | int]:
    """Spearman's rho and Kendall's tau-b over the pictures that have both, and how many these are.

    Raises DataError where fewer than three have both.
    """
    # A second of import, which scoring alone need not pay.
    from scipy.stats import kendalltau, spearmanr

    places = [place for place in ratings if place in scores]
    if len(places) < 3:
        raise DataError(
            f"Three pictures or more must have a score and a rating, but {len(places)} have both."
        )
    mine, theirs = [scores[place] for place in places], [ratings[place] for place in places]
    return {
        "spearman": round(float(spearmanr(mine, theirs).statistic), 6),
        "kendall": round(float(kendalltau(mine, theirs).statistic), 6),
        "pictures": len(places),
        "only_rated": len(ratings) - len(places),
        "only_scored": len(scores) - len(places),
    }
