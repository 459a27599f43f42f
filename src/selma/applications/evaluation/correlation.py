"""How well a metric agrees with people: rank correlation of its scores with their ratings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from selma.applications.evaluation.dsg import DsgRules, answers_by_model, verdicts_given
from selma.errors import DataError
from selma.scores import faithfulness
from selma.scores.benchmarks import read_dsg
from selma.scores.benchmarks.layouts import in_folder
from selma.scores.benchmarks.tifa import QUESTIONS
from selma.scores.tifa import TifaQuestion, read_tifa
from selma.textfiles import csv_rows

Place = tuple[str, str]
"""Model and prompt: one image."""


def read_ratings(path: Path) -> dict[Place, float]:
    """Mean rating of each image, from a CSV with t2i_model, item_id and answer (a number), one
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
    return {image: sum(of_one) / len(of_one) for image, of_one in ratings.items()}


def dsg_agreement(
    annotations: Path, answers: Path, ratings: Path, *, rules: DsgRules
) -> dict[str, float | int]:
    """The correlation of DSG scores with ratings of the same images: see `correlation`.

    annotations: CSV in DSG-1k's layout. answers: as `dsg.read_answers`, of one model or several.
    ratings: as `read_ratings`. Raises DataError.
    """
    benchmark_prompts = read_dsg(annotations, dependencies=rules.dependencies)
    scores: dict[Place, float] = {}
    for model, given in answers_by_model(answers).items():
        _, verdicts = verdicts_given(benchmark_prompts, given, rules=rules)
        for item, share in faithfulness.prompt_scores(verdicts).items():
            scores[model, item] = share
    return correlation(scores, read_ratings(ratings))


def tifa_agreement(questions: Path, answers: Path, ratings: Path) -> dict[str, float | int]:
    """The correlation of TIFA scores with ratings of the same images: see `correlation`.

    An image's score is the share of its prompt's questions that are answered with the very words
    of the right choice, or with "yes" where the choices are yes and no (the rule of DSG's program,
    scripts/tifa160_correlation.py, which has no matcher).

    questions: TIFA's file. answers: CSV with t2i_model, item_id, question and answer, the questions
    of an image in TIFA's order. ratings: as `read_ratings`, with TIFA's id of each item_id as
    source_id. Raises DataError, also where answers are to other questions than TIFA's.
    """
    asked: dict[str, list[TifaQuestion]] = defaultdict(list)
    for question in read_tifa(in_folder(questions, QUESTIONS)):
        asked[question.id].append(question)
    columns = ("t2i_model", "item_id", "source_id")
    source = {row["item_id"]: row["source_id"] for _, row in csv_rows(ratings, columns)}
    replies_to: dict[Place, list[tuple[str, str]]] = defaultdict(list)
    for _, row in csv_rows(answers, ("t2i_model", "item_id", "question", "answer")):
        replies_to[row["t2i_model"], row["item_id"]].append((row["question"], row["answer"]))
    scores = {
        (model, item): _tifa_share(item, asked.get(source[item], []), replies)
        for (model, item), replies in replies_to.items()
        if item in source
    }
    return correlation(scores, read_ratings(ratings))


def _tifa_share(
    item: str, questions: Sequence[TifaQuestion], replies: Sequence[tuple[str, str]]
) -> float:
    texts = [[" ".join(text.lower().split()) for text in group] for group in (
        [question.question for question in questions], [text for text, _ in replies])]  # fmt: skip
    if texts[0] != texts[1]:
        raise DataError(
            f"{item} must have an answer to each of its {len(questions)} questions in TIFA's "
            f"order, but has {len(replies)} to these: {'; '.join(texts[1])[:200]}."
        )
    right = [
        answer == ("yes" if question.choices == ("yes", "no") else question.answer)
        for question, (_, answer) in zip(questions, replies, strict=True)
    ]
    return sum(right) / len(right)


def correlation(
    scores: Mapping[Place, float], ratings: Mapping[Place, float]
) -> dict[str, float | int]:
    """Spearman's rho and Kendall's tau-b over the images that have both, and how many these are.

    Raises DataError where fewer than three have both.
    """
    # A second of import, which scoring alone need not pay.
    from scipy.stats import kendalltau, spearmanr

    places = [image for image in ratings if image in scores]
    if len(places) < 3:
        raise DataError(
            f"Three images or more must have a score and a rating, but {len(places)} have both."
        )
    mine, theirs = [scores[image] for image in places], [ratings[image] for image in places]
    return {
        "spearman": round(float(spearmanr(mine, theirs).statistic), 6),
        "kendall": round(float(kendalltau(mine, theirs).statistic), 6),
        "images": len(places),
        "only_rated": len(ratings) - len(places),
        "only_scored": len(scores) - len(places),
    }
