"""How well a metric agrees with people: rank correlation of its scores with their ratings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from selma.errors import DataError
from selma.scores.given import rows_of_csv

Place = tuple[str, str]
"""Model and prompt: one picture."""


def read_ratings(path: Path) -> dict[Place, float]:
    """Mean rating of each picture, from a CSV with t2i_model, item_id and answer (a number), one
    row for each annotator. Raises DataError."""
    ratings: dict[Place, list[float]] = defaultdict(list)
    for row in rows_of_csv(path, ("t2i_model", "item_id", "answer")):
        try:
            rating = float(row["answer"])
        except ValueError as error:
            raise DataError(
                f"{path}: a rating must be a number, but {row['item_id']} has {row['answer']!r}."
            ) from error
        ratings[row["t2i_model"], row["item_id"]].append(rating)
    return {place: sum(of_one) / len(of_one) for place, of_one in ratings.items()}


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
