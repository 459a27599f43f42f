"""Correlation of a metric's scores with people's ratings of the same images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.applications.evaluation.answer_files import answers_by_model
from selma.applications.evaluation.dsg import DsgRules, verdicts_given
from selma.config.section import require_kind
from selma.errors import DataError
from selma.ids import listed
from selma.paths import AnyPath, as_path
from selma.scores import faithfulness
from selma.scores.agreement import MEASURES, agreement, with_both
from selma.scores.benchmarks import read_dsg
from selma.scores.benchmarks.layouts import in_folder
from selma.scores.benchmarks.tifa import QUESTIONS
from selma.scores.tifa import TifaQuestion, read_tifa
from selma.scores.votes import ImageKey, image_key, read_ratings
from selma.textfiles import csv_rows


def dsg_agreement(
    annotations: AnyPath, answers: AnyPath, ratings: AnyPath, *, rules: DsgRules
) -> dict[str, Any]:
    """Correlate DSG scores with ratings of the same images; see `correlation`.

    annotations: CSV in DSG-1k's layout. answers: CSV as for `dsg.read_answers`, about one model or
    several. ratings: CSV as for `read_ratings`. Raises DataError.
    """
    annotations, answers, ratings = as_path(annotations), as_path(answers), as_path(ratings)
    require_kind(rules, DsgRules, maker="rules_of('default', {}) makes them.")
    benchmark_prompts = read_dsg(annotations, dependencies=rules.dependencies)
    scores: dict[ImageKey, float] = {}
    for model, given in answers_by_model(answers).items():
        _, verdicts = verdicts_given(benchmark_prompts, given, rules=rules)
        for item, share in faithfulness.prompt_scores(verdicts).items():
            scores[model, item] = share
    return correlation(scores, read_ratings(ratings))


def tifa_agreement(questions: AnyPath, answers: AnyPath, ratings: AnyPath) -> dict[str, Any]:
    """Correlate TIFA scores with ratings of the same images; see `correlation`.

    An image's score is the share of its prompt's questions that are answered with the very words
    of the right choice, or with "yes" where the choices are yes and no (the rule of DSG's program,
    scripts/tifa160_correlation.py, which has no matcher).

    questions: TIFA's file. answers: CSV with t2i_model, item_id, question and answer, the questions
    of an image in TIFA's order. ratings: CSV as for `read_ratings`, with TIFA's id of each item_id
    as source_id. Raises DataError, also if the answers are to other questions than TIFA's.
    """
    questions, answers, ratings = as_path(questions), as_path(answers), as_path(ratings)
    questions_of: dict[str, list[TifaQuestion]] = defaultdict(list)
    for question in read_tifa(in_folder(questions, QUESTIONS)):
        questions_of[question.id].append(question)
    source = _sources(ratings)
    if strangers := [id for id in source.values() if id not in questions_of]:
        raise DataError(
            f"{ratings}: source_id must be a prompt of {questions}, but "
            f"{listed(strangers, questions_of)} came."
        )
    replies_to: dict[ImageKey, list[tuple[str, str]]] = defaultdict(list)
    for _, row in csv_rows(answers, ("t2i_model", "item_id", "question", "answer")):
        replies_to[image_key(row)].append((row["question"], row["answer"]))
    scores = {
        (model, item): _tifa_share(item, questions_of[source[item]], replies)
        for (model, item), replies in replies_to.items()
        if item in source
    }
    without_ratings = sum(item not in source for _, item in replies_to)
    return correlation(scores, read_ratings(ratings), unscored=without_ratings)


def _sources(ratings: Path) -> dict[str, str]:
    """item_id → TIFA's id. Raises DataError for an item with two."""
    source: dict[str, str] = {}
    for line, row in csv_rows(ratings, ("t2i_model", "item_id", "source_id")):
        item, id = row["item_id"].strip(), row["source_id"].strip()
        if source.setdefault(item, id) != id:
            raise DataError(
                f"{ratings}, line {line}: {item} has the source_id {id!r}, but {source[item]!r} "
                "before. One prompt has one."
            )
    return source


def _tifa_share(
    item: str, questions: Sequence[TifaQuestion], replies: Sequence[tuple[str, str]]
) -> float:
    expected = [_normalised(question.question) for question in questions]
    answered = [_normalised(text) for text, _ in replies]
    if expected != answered:
        raise DataError(
            f"{item} must have an answer to each of its {len(questions)} questions in TIFA's "
            f"order, but has {len(replies)} to these: {'; '.join(answered)[:200]}."
        )
    right = [
        answer == ("yes" if question.choices == ("yes", "no") else question.answer)
        for question, (_, answer) in zip(questions, replies, strict=True)
    ]
    return sum(right) / len(right)


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def correlation(
    scores: Mapping[ImageKey, float], ratings: Mapping[ImageKey, float], *, unscored: int = 0
) -> dict[str, Any]:
    """Spearman's rho, Kendall's tau-b, Pearson's r and the accuracy over pairs (`scores.agreement`)
    over the images that have a score and a rating, with their 95% intervals over prompts.

    unscored: further images with answers and no rating, to be counted as only scored. Raises
    DataError if fewer than three images have both.
    """
    images = with_both(scores, ratings)
    result = agreement(
        [prompt for _, prompt in images],
        [scores[image] for image in images],
        [ratings[image] for image in images],
    )
    measures = {name: getattr(result, name) for name in MEASURES}
    return {
        **{name: m and round(m.mean / 100, 6) for name, m in measures.items()},
        "intervals": {
            name: [round(end / 100, 6) for end in (m.low, m.high)]
            for name, m in measures.items()
            if m is not None
        },
        "tie": result.tie,
        "images": result.images,
        "prompts": result.prompts,
        "only_rated": len(ratings) - len(images),
        "only_scored": len(scores) - len(images) + unscored,
    }
