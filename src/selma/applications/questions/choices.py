"""TIFA-style questions about a new text (arXiv:2303.11897): multiple choice, in one step.

TIFA also filters its model's questions by a question-answering model; here, every question must
have its answer among its choices and be about a word of the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from selma.backbones.language.model import Reply
from selma.backbones.language.replies import FENCE, REFUSAL, readable
from selma.prompts.questions.asking import Ask, Unusable, is_cut
from selma.prompts.questions.grounding import is_of
from selma.prompts.questions.lines import json_value
from selma.records.prompts import prompt_id

ELEMENT_TYPES = (
    *("animal/human", "object", "location", "activity", "color", "spatial", "attribute", "food"),
    *("counting", "material", "other", "shape"),
)
"""TIFA's twelve types of elements."""
_SAME_TYPE = {
    **dict.fromkeys(("animal", "human", "person", "people", "animals", "humans"), "animal/human"),
    **dict.fromkeys(("count", "number", "quantity"), "counting"),
    **dict.fromkeys(("place", "scene", "setting"), "location"),
    **dict.fromkeys(("action", "activities"), "activity"),
    **dict.fromkeys(("style", "texture", "size", "state"), "attribute"),
    **dict.fromkeys(("position", "relation"), "spatial"),
    "colour": "color",
    "objects": "object",
}
_EDGE = r"^[\s*_`#>•+-]*(?:\(?\d{1,3}[.):]\s*)?[*_`]*"
_END = r"[*_`]*\s*[:.)]+\s*[*_`]*\s*"
_ABOUT = re.compile(rf"{_EDGE}about\s+(.+?)\s*[\(\[]([^()\[\]]+)[\)\]]\W*$", re.I)
_ELEMENT = re.compile(
    rf"{_EDGE}(?:element|entity){_END}(.+?)\s*(?:[\(\[]([^()]+)[\)\]])?\W*$", re.I
)
_TYPE = re.compile(rf"{_EDGE}(?:element[ _])?type{_END}([a-z/ ]+)\W*$", re.I)
_ASKED = re.compile(rf"{_EDGE}(?:q|question)\s*\d*{_END}(.+)$", re.I)
_CHOICES = re.compile(rf"{_EDGE}(?:answer\s+)?(?:choices|options){_END}(.*)$", re.I)
_ANSWER = re.compile(
    rf"{_EDGE}(?:(?:correct|right)\s+)?(?:answer|ans|a)\s*\d*[*_`]*\s*:\s*[*_`]*\s*(.+)$", re.I
)
_LETTERED = re.compile(r"^[\s*_`-]*\(?([A-Ha-h])[.)]\s+(.+)$")
_BULLET = re.compile(r"^\s*[-*•+]\s+(.+)$")


@dataclass(frozen=True)
class Choice:
    """One multiple-choice question."""

    element: str
    element_type: str
    question: str
    choices: tuple[str, ...]
    answer: str


@dataclass
class _Draft:
    """A question while its lines are read."""

    element: str = ""
    kind: str = ""
    question: str = ""
    choices: list[str] = field(default_factory=list)
    listing: bool = False


def write_choices(
    text: str, faults: Counter[str], *, attempts: int
) -> Generator[Ask, Reply, list[Choice]]:
    """Write the questions about one text: yields requests and is sent the replies.

    `faults` counts faults of replies. Raises Unusable.
    """
    for attempt in range(attempts):
        reply = yield Ask("choices", text, attempt=attempt)
        choices, rejected = read_choices(reply.text, text, faults)
        if is_cut(reply):
            faults["choices: cut"] += 1
        elif choices and rejected <= len(choices):
            return [_reordered(choice) for choice in choices]
        faults["choices: asked again"] += attempt + 1 < attempts
    raise Unusable("no usable questions")


def read_choices(reply: str, text: str, faults: Counter[str]) -> tuple[list[Choice], int]:
    """The distinct questions in a reply about `text`, and the number of rejected ones."""
    by_question: dict[str, Choice] = {}
    rejected = 0
    clean = readable(reply)
    if REFUSAL.match(clean):
        faults["choices: refusal"] += 1
    value = json_value(clean)
    drafts = _from_lines(clean.split("\n")) if value is None else _from_json(value)
    for draft, answer in drafts:
        checked = _checked(draft, answer, text)
        if isinstance(checked, Choice) and checked.question.casefold() in by_question:
            checked = "asked twice"
        if isinstance(checked, str):
            faults[f"choices: {checked}"] += 1
            rejected += 1
        else:
            by_question[checked.question.casefold()] = checked
    if not by_question:
        faults["choices: none"] += 1
    return list(by_question.values()), rejected


def _checked(draft: _Draft, answer: str, text: str) -> Choice | str:
    """The question, or the reason for its rejection."""
    kind = draft.kind.strip().lower()
    kind = _SAME_TYPE.get(kind, kind)
    choices = tuple(dict.fromkeys(choice for choice in map(_bare, draft.choices) if choice))
    question = " ".join(draft.question.replace("**", "").split()).strip("\"'“”`*_ ")
    if kind not in ELEMENT_TYPES:
        return "unknown type"
    if len(question.split()) < 2 or len(question) > 300:
        return "no question"
    if len(choices) < 2 or len({choice.casefold() for choice in choices}) != len(choices):
        return "too few choices"
    right = _chosen(_bare(answer), choices)
    if right is None:
        return "answer is no choice"
    element = _bare(draft.element)
    if not element or not is_of(element, text):
        return "not in the text"
    question = question if "?" in question else f"{question.rstrip('.')}?"
    return Choice(element, kind, question, choices, right)


def _reordered(choice: Choice) -> Choice:
    """The question with its choices in an uninformative order.

    Models tend to write the right choice first, and a judge may tend to take the first.
    """
    if set(choice.choices) == {"yes", "no"}:
        return choice
    choices = sorted(choice.choices, key=lambda text: prompt_id(choice.question, text))
    return replace(choice, choices=tuple(choices))


def _chosen(answer: str, choices: tuple[str, ...]) -> str | None:
    """The choice that the answer names by its words or its letter; None if it names none."""
    for choice in choices:
        if choice.casefold() == answer.casefold():
            return choice
    letter = re.fullmatch(r"\(?([A-Ha-h])(?:[.)]\s*(.*))?", answer)
    if letter is None:
        return None
    index = ord(letter[1].lower()) - ord("a")
    words = (letter[2] or "").strip()
    if index >= len(choices) or (words and words.casefold() != choices[index].casefold()):
        return None
    return choices[index]


def _from_lines(lines: Iterable[str]) -> Iterator[tuple[_Draft, str]]:
    draft = _Draft()
    for line in lines:
        if FENCE.match(line) or not line.strip():
            continue
        about = _ABOUT.match(line) or _ELEMENT.match(line)
        if about:
            draft = _Draft(about[1].strip(" :*\"'"), about[2] or draft.kind)
        elif kind := _TYPE.match(line):
            draft.kind = kind[1]
        elif asked := _ASKED.match(line):
            draft = _Draft(draft.element, draft.kind, asked[1])
        elif choices := _CHOICES.match(line):
            draft.choices, draft.listing = _split(choices[1]), not choices[1].strip()
        elif draft.listing and (match := _LETTERED.match(line)):
            draft.choices.append(match[2])
        elif answer := _ANSWER.match(line):
            if draft.question:
                yield draft, answer[1]
            draft = _Draft(draft.element, draft.kind)
        elif draft.listing and (match := _BULLET.match(line)):
            draft.choices.append(match[1])


def _from_json(value: Any, element: str = "", kind: str = "") -> Iterator[tuple[_Draft, str]]:
    if isinstance(value, list):
        for part in value:
            yield from _from_json(part, element, kind)
    elif isinstance(value, dict):
        named = {str(key).lower(): part for key, part in value.items()}
        element = str(named.get("element", named.get("entity", element)))
        kind = str(named.get("element_type", named.get("type", kind)))
        choices = named.get("choices", named.get("options"))
        if "question" in named and choices is not None:
            if isinstance(choices, dict):
                choices = list(choices.values())
            listed = _split(choices) if isinstance(choices, str) else [str(c) for c in choices]
            draft = _Draft(element, kind, str(named["question"]), listed)
            yield draft, str(named.get("answer", named.get("correct_answer", "")))
        else:
            for part in named.values():
                yield from _from_json(part, element, kind)


def _split(text: str) -> list[str]:
    """The choices in one line, separated by commas, semicolons, bars or slashes, or lettered."""
    text = text.strip().strip("[]{}")
    lettered = re.split(r"(?:^|[\s,;]+)\(?[A-Ha-h][.)]\s+", f" {text}")
    if len(lettered) > 2:
        return [part.strip(" ,;") for part in lettered[1:]]
    for mark in (";", "|", ",", "/"):
        if mark in text:
            return [re.sub(r"^(?:or|and)\s+", "", part.strip()) for part in text.split(mark)]
    return [text] if text else []


def _bare(text: str) -> str:
    return " ".join(str(text).replace("**", "").split()).strip("\"'“”‘’`*_.,; ")
