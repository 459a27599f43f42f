"""How a question is put to a judge: wordings by name, since an answer means little without its own.

A wording is a name of these tables, or words of one's own with the same places in braces.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from selma.errors import ConfigError

QUESTION: Mapping[str, str] = MappingProxyType(
    {
        "bare": "{question}",
        "answer": "Question: {question} Answer:",  # BLIP-2 with OPT, arXiv:2301.12597, section 4.2
        "short_answer": "Question: {question} Short answer:",  # with FlanT5; InstructBLIP as well
        "paligemma": "answer en {question}",  # the task prefix of arXiv:2407.07726
        "yes_or_no": "{question} Please answer yes or no.",
        # TIFA's own program (arXiv:2303.11897) for BLIP-2 without choices.
        "tifa": "Answer the question. Question: {question} Answer:",
        # OneIG-Bench's own program (arXiv:2506.07977), with its point after the question mark.
        "oneig": "{question}. Please answer 'Yes' or 'No' only.",
    }
)
"""Name → words around a yes/no question."""

CHOICES: Mapping[str, str] = MappingProxyType(
    {
        "tifa": "Answer the multiple-choice question. Question: {question} Choices: {choices} "
        "Answer:",
        "selma": "Question: {question} Options: {choices} Answer:",
        # Only BLIP-2 is shown the choices in TIFA's program; all others answer freely.
        "bare": "{question}",
    }
)
"""Name → words around a multiple-choice question: TIFA's own, or as SELMA's release changed them.
Scores under the two cannot be compared."""

VQASCORE: Mapping[str, str] = MappingProxyType(
    {
        "plain": 'Does this figure show "{text}"?',
        # VQAScore's own; for judges whose own wording does not ask for yes or no already.
        "vqascore": 'Does this figure show "{text}"? Please answer yes or no.',
    }
)
"""Name → words around a whole prompt."""


class MultipleChoice(NamedTuple):
    """A question whose answer is one of some choices."""

    question: str
    choices: tuple[str, ...]


def wording(named: str, table: Mapping[str, str] = QUESTION, *, key: str = "prompt") -> str:
    """The words of a name, or the words themselves. Raises ConfigError, with the setting's key."""
    if named in table:
        return table[named]
    needed = places(next(iter(table.values())))
    try:
        fields = places(named)
    except ValueError as error:
        raise ConfigError(f"{key}: {named!r} has braces that are no places: {error}.") from error
    if not needed <= fields or fields - {
        field for words in table.values() for field in places(words)
    }:
        raise ConfigError(
            f"{key}: must be one of {', '.join(table)}, or words with "
            f"{', '.join('{' + field + '}' for field in sorted(needed))}, but is {named!r}."
        )
    return named


def places(words: str) -> set[str]:
    """What stands in braces. Raises ValueError for braces that are not closed."""
    return {field for _, field, _, _ in string.Formatter().parse(words) if field is not None}


def put(question: MultipleChoice, words: str) -> str:
    """The question with its choices, joined as TIFA joins them."""
    return words.format(question=question.question, choices=", ".join(question.choices))


def put_all(questions: Sequence[Sequence[MultipleChoice]], named: str) -> list[list[str]]:
    words = wording(named, CHOICES, key="choices_prompt")
    return [[put(question, words) for question in group] for group in questions]
