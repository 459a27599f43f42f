"""TIFA's multiple-choice questions (arXiv:2303.11897), and which choice a free answer counts as.

An answer counts as the choice that it literally is, else as the choice nearest in meaning by a
matcher. Loads no model by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from selma.errors import DataError
from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.records.record import Record
from selma.scores import faithfulness
from selma.textfiles import read_text

Matcher = Callable[[Sequence[str], Sequence[Sequence[str]]], list[int]]
"""Answers and the choices of each → the place of the nearest choice."""


class TifaQuestion(Record):
    """One multiple-choice question of the benchmark, in the words of its own file."""

    model_config = Record.model_config | {"extra": "ignore"}

    id: str
    """The prompt's."""
    caption: str
    question: str
    choices: tuple[str, ...] = Field(min_length=2)
    answer: str
    element_type: str
    element: str = ""


def read_tifa(path: Path) -> list[TifaQuestion]:
    """The benchmark's question file, or one in its layout. Raises DataError."""
    questions = []
    for number, row in enumerate(read_json(path)):
        try:
            questions.append(TifaQuestion.model_validate(row))
        except ValidationError as error:
            what = error.errors()[0]
            raise DataError(
                f"{path}, question {number}: {'.'.join(map(str, what['loc']))}: {what['msg']}."
            ) from error
    if not questions:
        raise DataError(f"{path} must hold questions, but has none.")
    return questions


def match_choices(
    benchmark_prompts: Sequence[BenchmarkPrompt], answers: Sequence[Answer], matcher: Matcher
) -> list[Answer]:
    """The answers of a run; those to multiple-choice questions that say no choice of theirs get the
    nearest as `choice`."""
    asked = {(prompt.id, q.id): q for prompt in benchmark_prompts for q in prompt.questions}
    questions = [asked[answer.prompt_id, answer.question_id] for answer in answers]
    open_places = [
        index
        for index, (question, answer) in enumerate(zip(questions, answers, strict=True))
        if question.choices and faithfulness.understood(question, answer.text) is None
    ]
    texts = [answers[index].text for index in open_places]
    choices = [questions[index].choices for index in open_places]
    nearest = nearest_choices(texts, choices, matcher)
    matched = list(answers)
    for index, choice in zip(open_places, nearest, strict=True):
        matched[index] = answers[index].model_copy(update={"choice": choice})
    return matched


def nearest_choices(
    texts: Sequence[str], choices: Sequence[Sequence[str]], matcher: Matcher
) -> list[str]:
    """The choice nearest to each text; the matcher, slow to load, is not asked for nothing."""
    indices = matcher(texts, choices) if texts else []
    return [of_one[index] for of_one, index in zip(choices, indices, strict=True)]


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} must be a JSON file, but cannot be read: {error}.") from error
