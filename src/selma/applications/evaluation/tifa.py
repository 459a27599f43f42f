"""TIFA scores (arXiv:2303.11897) of answers in a file. Loads no model by itself.

A free answer counts as the choice with the same words, else as the choice that a matcher finds
nearest in meaning; without a matcher it counts as wrong, and `unmatched` counts such answers.
"""

from __future__ import annotations

import statistics as plain
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from selma.errors import DataError
from selma.ids import listed
from selma.paths import AnyPath, as_path
from selma.records.record import Record
from selma.scores import statistics
from selma.scores.tifa import (
    Matcher,
    TifaId,
    TifaQuestion,
    nearest_choices,
    read_json,
    rows_in,
    tifa_id,
)
from selma.textfiles import csv_rows
from selma.texts import quoted


class TifaAnswer(Record):
    """An answer to one question about an image; `choice` is None until one is matched."""

    id: TifaId
    question: str
    free: str
    choice: str | None = None


def read_tifa_answers(path: AnyPath) -> list[TifaAnswer]:
    """Read answers from a CSV (id or item_id, question, answer) or a JSON: a list of such rows, or
    TIFA's own result file. Raises DataError."""
    path = as_path(path)
    if path.suffix.lower() == ".csv":
        rows: list[Any] = [row for _, row in csv_rows(path)]
    else:
        content = read_json(path)
        if isinstance(content, dict):
            details = content.get("question_details")
            if not isinstance(details, dict) or not all(
                isinstance(of_prompt, dict) for of_prompt in details.values()
            ):
                raise DataError(
                    f"{path} must be a list of answers or have question_details, which has a "
                    "mapping for each prompt."
                )
            rows = [row for of_prompt in details.values() for row in of_prompt.values()]
        else:
            rows = rows_in(path, content)
    answers = []
    for number, row in enumerate(rows):
        fields = row if isinstance(row, dict) else {}
        id = tifa_id(fields.get("id", fields.get("item_id")))
        free = fields.get("free_form_vqa", fields.get("answer"))
        question, choice = fields.get("question"), fields.get("multiple_choice_vqa")
        if not (isinstance(id, str) and isinstance(question, str) and isinstance(free, str)):
            raise DataError(
                f"{path}, row {number}: id must be a text or a number, question and answer (or "
                f"free_form_vqa) texts, but they are {quoted(id)}, {quoted(question)}, "
                f"{quoted(free)}."
            )
        if not isinstance(choice, str | None):
            raise DataError(
                f"{path}, row {number}: multiple_choice_vqa must be a text, but is {choice!r:.80}."
            )
        answers.append(TifaAnswer(id=id, question=question, free=free, choice=choice or None))
    return answers


def score_tifa(
    questions: Sequence[TifaQuestion],
    answers: Sequence[TifaAnswer],
    *,
    matcher: Matcher | None = None,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Score answers to TIFA's questions. The result is ready for JSON.

    It has TIFA's own fields on its scale of 0 to 1, and `score` from 0 to 100 with its interval
    over prompts. Prompts without any answer are left out and listed. Raises DataError if a prompt
    has only some of its answers, or one twice.
    """
    answer_to: dict[tuple[str, str], TifaAnswer] = {}
    for answer in answers:
        question_key = _key(answer)
        if question_key in answer_to:
            raise DataError(f"Prompt {question_key[0]} has two answers to {question_key[1]!r}.")
        answer_to[question_key] = answer
    answered = {answer.id for answer in answers}
    asked = [question for question in questions if question.id in answered]
    if not asked:
        strangers = listed(sorted(answered), {question.id for question in questions})
        raise DataError(f"The answers are about no prompt of the questions, but about {strangers}.")
    not_asked = sorted(answer_to.keys() - {_key(question) for question in questions})
    for question in asked:
        if _key(question) not in answer_to:
            others = [text for id, text in not_asked if id == question.id]
            raise DataError(
                f"Prompt {question.id} has no answer to {question.question!r}"
                + (f", but to {listed(others, [question.question])}." if others else ".")
            )
    given = [answer_to[_key(question)] for question in asked]
    chosen = choose(asked, given, matcher)
    points = [int(c == q.answer) for q, c in zip(asked, chosen, strict=True)]
    by_prompt: dict[str, list[int]] = defaultdict(list)
    by_type: dict[str, list[int]] = defaultdict(list)
    per_question: dict[str, dict[str, int]] = defaultdict(dict)
    for question, point in zip(asked, points, strict=True):
        by_prompt[question.id].append(point)
        by_type[question.element_type].append(point)
        per_question[question.id][question.question] = point
    shares = {id: sum(got) / len(got) for id, got in by_prompt.items()}
    interval = statistics.interval(
        [100 * share for share in shares.values()], seed=seed, resamples=resamples
    )
    groups: dict[str, list[float]] = defaultdict(list)
    for id, share in shares.items():
        groups[id.rpartition("_")[0] or "all"].append(share)
    return {
        "score": round(interval.mean, 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "standard_error": interval.standard_error and round(interval.standard_error, 4),
        "tifa_average": plain.fmean(shares.values()),
        # Over prompts, with n - 1 below, as TIFA's program has it.
        "tifa_stdev": plain.stdev(shares.values()) if len(shares) > 1 else 0.0,
        "accuracy_by_type": {name: sum(got) / len(got) for name, got in by_type.items()},
        "groups": {name: round(100 * plain.fmean(got), 4) for name, got in sorted(groups.items())},
        "categories": {
            name: round(100 * sum(got) / len(got), 4) for name, got in sorted(by_type.items())
        },
        "prompts": len(shares),
        "questions": len(points),
        "unmatched": (unmatched := sum(choice is None for choice in chosen)),
        "unreadable": unmatched,  # the same count under the name that a DSG result has
        "dependency_faults": {},  # no question depends on another
        "question_faults": {
            "asked twice": len(asked) - len({(q.id, q.question) for q in asked}),
            "answer is no choice": sum(q.answer not in q.choices for q in asked),
        },
        "without_answers": sorted({q.id for q in questions} - answered),
        "not_in_questions": not_asked,
        "per_prompt": {id: round(100 * share, 4) for id, share in shares.items()},
        "per_question": per_question,
    }


def _key(row: TifaQuestion | TifaAnswer) -> tuple[str, str]:
    """What joins an answer to its question: TIFA has no ids for questions."""
    return row.id, row.question.strip()


def choose(
    questions: Sequence[TifaQuestion], answers: Sequence[TifaAnswer], matcher: Matcher | None
) -> list[str | None]:
    """The choice that each answer counts as; None for an unmatched answer without a matcher."""
    chosen: list[str | None] = []
    for question, answer in zip(questions, answers, strict=True):
        literal = answer.free if answer.free in question.choices else None
        chosen.append(literal or (answer.choice if matcher is None else None))
    unmatched = [index for index, choice in enumerate(chosen) if choice is None]
    if matcher:
        texts = [answers[index].free for index in unmatched]
        choices = [questions[index].choices for index in unmatched]
        nearest = nearest_choices(texts, choices, matcher)
        for index, choice in zip(unmatched, nearest, strict=True):
            chosen[index] = choice
    return chosen
