"""The numbered rows of a reply in any shape: lines, bullets, a table, JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from selma.backbones.language.loose_json import plain, values
from selma.backbones.language.replies import FENCE, readable
from selma.prompts.markers import Mark, readings


class Row(NamedTuple):
    """One row of a reply; its number is None if it has none."""

    number: int | None
    body: str


_LABEL = r"(?:facts?|rows?|tuples?|questions?|dependenc(?:y|ies)|items?|number|no\.?|id|q|f)"
# A blank alone may follow a number if the next word can begin a row.
_BEGINS = r"(?:entity|attribute|relation|global|other|is|are|do|does|did|was|were|has|have|can)\b"
_NUMBERED = re.compile(
    rf"^\s*(?:[-*+•>]\s+)?(?:\#+\s*)?[*_`]{{0,2}}[\(\[]?(?:{_LABEL}\s*)?\#?\s*(\d{{1,3}})[\)\]]?"
    rf"[*_`]{{0,2}}\s*(?:\||[.):\]、．：]+|[-–—=]*>|→|[-–—=]\s|depends? on\b:?|\s(?={_BEGINS}))"
    r"\s*[*_`]{0,2}\s*(.*)$",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^\s*(?:[-*+•‣◦▪–—]|\[[ xX]?\])\s+(?=\S)(.*)$")
_RUN_ON = re.compile(r"(?<=\S)[\s,;]+(?=\d{1,3}\s*\|\s*\S)")
_GIVEN = re.compile(r"^\W*(text|text and facts|input|example \d+|next text)\W*(:.*)?$", re.I)
_OUTPUT = re.compile(
    r"^\W*(facts|tuples|dependencies|questions|output|answer|response|result)\W*:?\W*$", re.I
)
_CLOSING = re.compile(r"^\s*(?:</[\w-]+>\s*)+$")
_NUMBER_KEYS = ("id", "number", "no", "index", "n", "#", "fact_id", "tuple_id", "question_id")
_BODY_KEYS = (
    *("question", "tuple", "dependencies", "dependency", "depends_on", "depends on", "parents"),
    *("parent", "fact", "text", "body", "value"),
)


def rows(reply: str) -> list[Row]:
    """The rows of a reply, in its order; other lines become rows without a number.

    The input repeated before the rows, and further examples invented after them, are left out.
    """
    text = readable(reply)
    from_json = json_value(text)
    if from_json is not None:
        return list(_json_rows(from_json))
    parsed: list[Row] = []
    for line in text.split("\n"):
        if FENCE.match(line) or _CLOSING.match(line) or not line.strip():
            continue
        if _OUTPUT.match(line):
            parsed.clear()  # what came before was the input, repeated
        elif _GIVEN.match(line):
            if any(row.number is not None for row in parsed):
                break  # the model has gone on to another example
        else:
            parsed += [_row(part) for part in _RUN_ON.split(line) if part.strip()]
    return parsed


def json_value(text: str) -> Any:
    """The JSON in a readable reply, bare, in a fence or broken; None if there is none."""
    inner = "\n".join(line for line in text.split("\n") if not FENCE.match(line)).strip()
    if _NUMBERED.match(inner.split("\n")[0]):
        return None
    read = [plain(value.value) for value in values(inner, ended=True)]
    return read[0] if len(read) == 1 else read or None


def _row(line: str) -> Row:
    table = re.match(r"^\s*\|(.+)\|\s*$", line)
    if table:
        line = table[1].strip()
    match = _NUMBERED.match(line)
    if match:
        return Row(int(match[1]), match[2].strip())
    mark = next((mark for mark in readings(line) if _numbers(mark)), None)
    if mark is not None:
        return Row(mark.value, mark.rest)
    bullet = _BULLET.match(line)
    return Row(None, (bullet[1] if bullet else line).strip())


def _numbers(mark: Mark) -> bool:
    """Whether it numbers a row in another way of writing: in a circle, in a key, escaped."""
    numbered = mark.system in ("decimal", "enclosed") and mark.closing == "mark"
    return numbered and bool(mark.rest) and not mark.label


def _json_rows(value: Any, depth: int = 0) -> Iterator[Row]:
    """Rows of a list of texts or objects, or of an object of numbered keys, at any depth."""
    if depth > 6:
        return
    if isinstance(value, dict):
        if value and all(re.fullmatch(r"\D{0,6}\d{1,3}", str(key)) for key in value):
            for key, part in value.items():
                number = int(re.sub(r"\D", "", key))
                yield Row(number, _body(part))
            return
        named = {str(key).lower(): part for key, part in value.items()}
        row_number = next((_number(named[key]) for key in _NUMBER_KEYS if key in named), None)
        body = _tuple_of(named) or next((_body(named[k]) for k in _BODY_KEYS if k in named), None)
        if body is not None and (row_number is not None or not _holds_rows(value)):
            yield Row(row_number, body)
            return
        for part in value.values():
            yield from _json_rows(part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            if isinstance(part, dict | list):
                yield from _json_rows(part, depth + 1)
            else:
                yield _row(str(part))


def _holds_rows(value: dict[str, Any]) -> bool:
    return any(isinstance(part, list | dict) and part for part in value.values())


def _number(value: Any) -> int | None:
    digits = re.sub(r"\D", "", str(value))
    return int(digits[:3]) if digits else None


def _tuple_of(named: dict[str, Any]) -> str | None:
    """A fact given in parts: category, kind and things."""
    category = next((named[k] for k in ("category", "category_broad") if k in named), None)
    kind = next((named[k] for k in ("kind", "type", "category_detailed") if k in named), "-")
    things = next(
        (named[k] for k in ("things", "arguments", "args", "keywords", "tuple") if k in named), None
    )
    if category is None or things is None or "question" in named:
        return None
    body = _body(things)
    return body if "(" in body else f"{category} - {kind} ({body})"


def _body(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_body, value))
    if isinstance(value, dict):
        named = {str(key).lower(): part for key, part in value.items()}
        body = _tuple_of(named) or next((_body(named[k]) for k in _BODY_KEYS if k in named), None)
        return body if body is not None else ", ".join(map(_body, value.values()))
    return "" if value is None else str(value)
