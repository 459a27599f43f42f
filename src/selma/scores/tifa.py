"""TIFA's multiple-choice questions (arXiv:2303.11897), and which choice a free answer counts as.

An answer counts as the choice with the same words, else as the choice that a matcher finds nearest
in meaning. Loads no model by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from selma.errors import DataError
from selma.paths import AnyPath, as_path
from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.records.record import Record
from selma.scores import faithfulness
from selma.textfiles import read_text
from selma.texts import mistake_at

Matcher = Callable[[Sequence[str], Sequence[Sequence[str]]], list[int]]
"""Answers and the choices of each → the index of the nearest choice."""


def tifa_id(value: Any) -> Any:
    """A caption's id as TIFA's program uses it to find the image: str() of a number, here without
    the blanks around it; anything else as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else value


TifaId = Annotated[str, BeforeValidator(tifa_id)]


class TifaQuestion(Record):
    """One multiple-choice question, with the field names of TIFA's file."""

    model_config = Record.model_config | {"extra": "ignore"}

    id: TifaId
    """The prompt's id."""
    caption: str
    question: str
    choices: tuple[str, ...] = Field(min_length=2)
    answer: str
    element_type: str
    element: str = ""


def read_tifa(path: AnyPath) -> list[TifaQuestion]:
    """Read TIFA's question file, or another in its layout. Raises DataError."""
    path = as_path(path)
    questions = []
    for number, row in enumerate(rows_in(path, read_json(path))):
        try:
            questions.append(TifaQuestion.model_validate(row))
        except ValidationError as error:
            mistake = error.errors()[0]
            raise DataError(
                f"{path}, question {number}: {mistake_at(mistake['loc'], mistake['msg'])}."
            ) from error
    if not questions:
        raise DataError(f"{path} must hold questions, but has none.")
    return questions


def match_choices(
    benchmark_prompts: Sequence[BenchmarkPrompt], answers: Sequence[Answer], matcher: Matcher
) -> list[Answer]:
    """The answers; those that are none of their question's choices get the nearest as `choice`."""
    asked = {(prompt.id, q.id): q for prompt in benchmark_prompts for q in prompt.questions}
    questions = [asked[answer.prompt_id, answer.question_id] for answer in answers]
    unmatched = [
        index
        for index, (question, answer) in enumerate(zip(questions, answers, strict=True))
        if question.choices and faithfulness.understood(question, answer.text) is None
    ]
    texts = [answers[index].text for index in unmatched]
    choices = [questions[index].choices for index in unmatched]
    nearest = nearest_choices(texts, choices, matcher)
    matched = list(answers)
    for index, choice in zip(unmatched, nearest, strict=True):
        matched[index] = answers[index].model_copy(update={"choice": choice})
    return matched


def nearest_choices(
    texts: Sequence[str], choices: Sequence[Sequence[str]], matcher: Matcher
) -> list[str]:
    """The choice nearest to each text; without texts the matcher, slow to load, is not called."""
    indices = matcher(texts, choices) if texts else []
    return [offered[index] for offered, index in zip(choices, indices, strict=True)]


def rows_in(path: Path, content: Any) -> list[Any]:
    """The content, if it is a list. Raises DataError."""
    if not isinstance(content, list):
        raise DataError(f"{path} must be a JSON list of rows, but is {content!r:.80}.")
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} must be a JSON file, but cannot be read: {error}.") from error
