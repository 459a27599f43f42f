"""From answers to DSG scores (Davidsonian Scene Graph, arXiv:2310.18235). Pure.

A question earns its point if its answer is the expected one (in DSG always yes; in TIFA, whose
questions have no dependencies, one of several choices) and no question that it depends on was
answered no: "is the dog red?" means nothing without a dog. Four rules for dependencies:

- cascading: a no zeroes all that depend on it, directly or through others (SELMA's intention);
- one_level: only a parent's own answer counts (DSG's released code);
- row_order: cascading in one pass down the rows, so that a parent further down counts by its own
  answer alone (SELMA's released code); the only rule that depends on the order of rows;
- none: every answer counts by itself.

Invalid references (to the question itself, to a missing one, words) are ignored, and
`dependency_faults` counts them. Questions in a cycle each depend on all others of the cycle.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Literal

from selma.errors import DataError
from selma.ids import listed
from selma.records.benchmarks import Answer, BenchmarkPrompt, Question
from selma.records.scores import Zeroing

Reading = Literal["normalised", "exact", "leading", "capitalised"]
"""Which texts are a yes or no; see `READINGS`."""
Verdict = Literal["yes", "no", "unreadable", "zeroed"]
Verdicts = Mapping[str, Mapping[str, Verdict]]
"""Prompt id → question id → how the answer counts; only "yes", as expected, earns a point."""

_EDGES = string.whitespace + string.punctuation


def normalise(text: str) -> Literal["yes", "no", "unreadable"]:
    """ "yes" or "no" if the answer is that word alone, ignoring case, blanks and punctuation.

    Anything else is unreadable: a guess at "no bus" or "yes, 2" would hide such answers.
    """
    word = text.strip(_EDGES).lower()
    return "yes" if word == "yes" else "no" if word == "no" else "unreadable"


def verbatim(text: str) -> Literal["yes", "no", "unreadable"]:
    """The unchanged text, as both released programs compare it; "Yes" is unreadable."""
    return "yes" if text == "yes" else "no" if text == "no" else "unreadable"


def leading(text: str) -> Literal["yes", "no", "unreadable"]:
    """The word that the answer begins with, if it is yes or no: "Yes, there is a dog." is yes."""
    word = text.strip().lower()
    for known in ("yes", "no"):
        if re.match(rf"{known}\b", word):
            return "yes" if known == "yes" else "no"
    return "unreadable"


def capitalised(text: str) -> Literal["yes", "no", "unreadable"]:
    """The unchanged text, if it is "Yes" or "No"."""
    return "yes" if text == "Yes" else "no" if text == "No" else "unreadable"


READINGS: Mapping[Reading, Callable[[str], Literal["yes", "no", "unreadable"]]] = {
    "normalised": normalise,
    "exact": verbatim,
    "leading": leading,
    "capitalised": capitalised,
}


def verdicts_by_prompt(
    benchmark_prompts: Iterable[BenchmarkPrompt],
    answers: Iterable[Answer],
    *,
    zeroing: Zeroing,
    reading: Reading = "normalised",
) -> dict[str, dict[str, Verdict]]:
    """Prompt id → verdicts on its questions.

    Raises DataError if an answer is missing or comes twice, so that no denominator changes unseen.
    """
    texts_by_question: dict[tuple[str, str], str] = {}
    for answer in answers:
        question_key = (answer.prompt_id, answer.question_id)
        if question_key in texts_by_question:
            raise DataError(
                f"Prompt {question_key[0]} has two answers to question {question_key[1]}."
            )
        texts_by_question[question_key] = answer.choice or answer.text
    result = {}
    for prompt in benchmark_prompts:
        silent = [q.id for q in prompt.questions if (prompt.id, q.id) not in texts_by_question]
        if silent:
            asked = {question.id for question in prompt.questions}
            others = [q for p, q in texts_by_question if p == prompt.id and q not in asked]
            raise DataError(
                f"Prompt {prompt.id} has no answer to question {silent[0]}"
                + (f", but has answers to {listed(others, silent)}." if others else ".")
            )
        texts = {
            question.id: texts_by_question[prompt.id, question.id] for question in prompt.questions
        }
        result[prompt.id] = verdicts(prompt.questions, texts, zeroing=zeroing, reading=reading)
    return result


def verdicts_in_turn(
    benchmark_prompts: Iterable[BenchmarkPrompt],
    answers: Iterable[Answer],
    *,
    zeroing: Zeroing,
    reading: Reading = "normalised",
) -> Iterator[tuple[str, list[Answer], dict[str, Verdict]]]:
    """(prompt id, its answers, their verdicts), prompt by prompt in the answers' order, with those
    of a prompt in a row; answers to other prompts are passed over. So many answers need not be in
    memory at a time. Raises DataError as `verdicts_by_prompt` does.
    """
    missing = {prompt.id: prompt for prompt in benchmark_prompts}
    known = set(missing)
    by = partial(verdicts_by_prompt, zeroing=zeroing, reading=reading)
    for id, of_prompt in groupby(answers, key=attrgetter("prompt_id")):
        if (prompt := missing.pop(id, None)) is not None:
            given = list(of_prompt)
            yield id, given, by([prompt], given)[id]
        elif id in known:
            question = next(of_prompt).question_id
            raise DataError(f"Prompt {id} has two answers to question {question}.")
    for id, prompt in missing.items():
        yield id, [], by([prompt], [])[id]


def verdicts(
    questions: Sequence[Question],
    texts: Mapping[str, str],
    *,
    zeroing: Zeroing,
    reading: Reading = "normalised",
) -> dict[str, Verdict]:
    """Question id → verdict on its raw answer, for the questions of one prompt."""
    verdict_of: dict[str, Verdict] = {
        q.id: _own_verdict(q, texts[q.id], reading) for q in questions
    }
    if zeroing == "row_order":
        for question in questions:
            if verdict_of[question.id] == "yes" and any(
                verdict_of.get(parent, "yes") != "yes" for parent in question.parents
            ):
                verdict_of[question.id] = "zeroed"
    elif zeroing != "none":
        denied = {id for id, verdict in verdict_of.items() if verdict != "yes"}
        for id in _dependants(questions, denied, all_levels=zeroing == "cascading"):
            if verdict_of[id] == "yes":
                verdict_of[id] = "zeroed"
    return verdict_of


def understood(question: Question, text: str, reading: Reading = "normalised") -> str | None:
    """ "yes", "no" or one of the question's choices, if the answer is nothing else; otherwise None.

    Nothing is guessed: "the dog" is not the choice "dog".
    """
    if question.spellings:
        bare = text.strip(_EDGES).lower()
        alike = bare in {spelling.strip(_EDGES).lower() for spelling in question.spellings}
        return question.answer if alike else bare or None
    if not question.choices:
        word = READINGS[reading](text)
        return None if word == "unreadable" else word
    if text in question.choices or reading == "exact":
        return text if text in question.choices else None
    bare = text.strip(_EDGES).casefold()
    offered = [choice for choice in question.choices if choice.strip(_EDGES).casefold() == bare]
    return offered[0] if len(set(offered)) == 1 else None


def _own_verdict(question: Question, text: str, reading: Reading) -> Verdict:
    """The verdict on an answer, regardless of dependencies."""
    word = understood(question, text, reading)
    return "unreadable" if word is None else "yes" if word == question.answer else "no"


def _dependants(questions: Sequence[Question], denied: set[str], *, all_levels: bool) -> set[str]:
    """Ids of the questions that depend on a denied one."""
    children: dict[str, list[str]] = {}
    for question in questions:
        for parent in question.parents:
            if parent != question.id:
                children.setdefault(parent, []).append(question.id)
    reached: set[str] = set()
    front = list(denied)
    while front:
        new = {child for id in front for child in children.get(id, ())} - reached
        reached |= new
        front = list(new) if all_levels else []
    return reached


def prompt_scores(verdicts: Verdicts) -> dict[str, float]:
    """Prompt id → share of its questions that earn their point, 0..1. DSG's score is the mean."""
    return {id: points(of_prompt) / len(of_prompt) for id, of_prompt in verdicts.items()}


def points(of_prompt: Mapping[str, Verdict]) -> int:
    """The number of questions that earn their point."""
    return sum(verdict == "yes" for verdict in of_prompt.values())


def detail(question: Question) -> str:
    """The finer category, or the broad one if the question has no finer one (DSG's "global")."""
    return question.detail or question.category


def category_points(
    benchmark_prompts: Iterable[BenchmarkPrompt],
    points: Mapping[str, Mapping[str, float]],
    of: Callable[[Question], str] = lambda question: question.category,
) -> dict[str, dict[str, tuple[float, int]]]:
    """Category → prompt id → (points, questions), for prompts with questions of the category.

    points: prompt id → question id → its point.
    """
    table: dict[str, dict[str, tuple[float, int]]] = {}
    for prompt in benchmark_prompts:
        for question in prompt.questions:
            row = table.setdefault(of(question), {})
            got, asked = row.get(prompt.id, (0.0, 0))
            row[prompt.id] = (got + points[prompt.id][question.id], asked + 1)
    return table


def dependency_faults(benchmark_prompts: Iterable[BenchmarkPrompt]) -> dict[str, int]:
    """Fault of the dependencies → how often it occurs; {} for a sound benchmark.

    Four faults count references, which zeroing ignores; the last counts questions in a cycle.
    """
    count: Counter[str] = Counter()
    for prompt in benchmark_prompts:
        known = {question.id for question in prompt.questions}
        inner = {parent for q in prompt.questions for parent in q.parents}
        for question in prompt.questions:
            count["named twice"] += len(question.parents) - len(set(question.parents))
            for parent in set(question.parents):
                if parent == question.id:
                    count["names itself"] += 1
                elif parent not in known:
                    count["names a missing question" if parent.isdecimal() else "not an id"] += 1
        count["question in a cycle"] += sum(
            question.id in _dependants(prompt.questions, {question.id}, all_levels=True)
            for question in prompt.questions
            # Leaves and roots, most of the questions, are in no cycle.
            if question.parents and question.id in inner
        )
    return {fault: number for fault, number in sorted(count.items()) if number}
