"""What may be a marker at the beginning of a line, in every way in which it can be read.

Whether it is one, the other lines tell (`selma.prompts.listing`): "A. " is a letter, an initial or
a word, and "3 " a number or how many there are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from selma.prompts.numerals import CHINESE, ROMAN, STEMS, enclosed, numbered

Closing = Literal["mark", "comma", "blank"]
"""What ends an ordinal: a mark that little else is written with, a comma, or a blank alone."""

_EMPHASIS = "*_~`"
_OPENING, _CLOSING = "([{（［【〔<〈", ")]}）］】〕>〉"
_MARKS = set(".:：．。、|→)]}）］】〕〉º\\")
_CLOSER = r".:：．。、，,|→)\]}）］】〕〉º°\\-"
_CLOSERS = re.compile(
    rf"[*_~`]*(?:[ \t]?[{_CLOSER}])?[*_~`{_CLOSER}]*(?:[ \t]+[–—-](?=\s)|[–—](?=\s))?"
)
_SIGN = r"(?:[#＃№]|n[°ºo]\.?|nr\.?|no\.?|number|第)"
_LABEL = re.compile(
    rf"(?P<label>[^\W\d_](?:[^\n\d:：|.!?\"“”]{{0,28}}?[^\W\d_])?)?\s*(?P<sign>{_SIGN})?\s*",
    re.IGNORECASE,
)
_KEYCAP = re.compile("(?:[0-9]\ufe0f?\u20e3)+|\U0001f51f")
_DECIMAL = re.compile(r"(?:\d{1,3}\.)*\d{1,4}(?![^\W_])")
_ROMAN = re.compile(r"(?:[ivxlcdm]{1,7}|[IVXLCDM]{1,7}|[\u2160-\u217f]{1,3})(?![^\W_])")
_CHINESE = re.compile(r"([一二三四五六七八九十]{1,4})(?:[个個条條则則号號](?=[，,、：:]))?")
_OF_ALL = re.compile(r"(\d{1,3})(?:\s?/\s?| of )(\d{1,3})(?![^\W_])")
"""1/3: or 1 of 3:, the number of the line and of all lines."""
_WORD = re.compile(r"[^\W\d_]{2,12}(?:\u0307[^\W\d_]{1,12})?(?![^\W_])")
_BOX = re.compile(r"\[[ xX✓✔]?\](?=\s)|<li>")
_COMMAND = re.compile(r"(?:\\[a-z]+|#\.)(?=\s)")
_FRAMED = re.compile(
    r"(?P<before>\\?[a-z]*[^\w\s]*)(?P<number>\d{1,4})(?:st|nd|rd|th|er|e)?"
    r"(?P<after>\s?[^\w\s%°+'\"″′]{1,3})\s+(?P<rest>\S.*)"
)
"""A number between signs, as 1>, <1>, 1st: or \\item[1.]"""
BULLETS = "-*+•‣◦▪●·・–—→»✓✔>○∙"
"""Symbols that are a bullet even on one line alone; of all others, two lines must begin so."""
_LONGEST_RUN = 40
_NO_BULLET = set("\"'`“”‘’„‚«‹›「」『』《》〈〉()[]{}（）［］【】〔〕#|&%@\\/<_$€£¥\U0001f51f")


@dataclass(frozen=True)
class Mark:
    """An ordinal at the beginning of a line, as it can be read."""

    system: str
    """How it is written: decimal, enclosed (in a circle or a key), roman, latin, ..."""
    label: str
    """The words before it, in folded case; # for a sign alone."""
    value: int
    closing: Closing
    rest: str
    alone: bool
    """It begins a heading, or fills a line in emphasis."""


@dataclass(frozen=True)
class Bullet:
    """A run of symbols at the beginning of a line."""

    run: str
    rest: str
    tight: bool
    """Nothing is between it and the text."""


def readings(line: str) -> Iterator[Mark]:
    """Every ordinal that the line may begin with."""
    stripped = line.strip()
    bullet = bullet_of(stripped)
    head = bullet.rest if bullet is not None and not bullet.tight else stripped
    heading = re.match(r"#{1,6}(?:\s+|(?=\d))", head)
    head = head[heading.end() :] if heading else head
    body = head.lstrip(_EMPHASIS)
    emphasised = body != head
    opened = body[:1] if body[:1] in _OPENING else ""
    emphasis = head[: len(head) - len(body)]
    for mark in _ordinals(body.removeprefix(opened), opened=bool(opened)):
        alone = bool(heading) or (emphasised and not mark.rest)
        # "**1. Harbour:** a red kite": what the emphasis goes on with begins in it.
        rest = emphasis + mark.rest if emphasis and emphasis in mark.rest else mark.rest
        yield replace(mark, alone=alone, rest=rest)
    if framed := _FRAMED.match(stripped):
        system = f"{framed['before']}#{framed['after']}"
        yield Mark(system, "", int(framed["number"]), "mark", framed["rest"], alone=False)


def bullet_of(line: str) -> Bullet | None:
    """The run of symbols before the text of a line, or a box to be checked."""
    stripped = line.strip()
    end = _run_end(stripped[:_LONGEST_RUN])
    if end and not stripped[end : end + 1].isspace():  # emphasis belongs to the text
        end -= len(stripped[:end]) - len(stripped[:end].rstrip("*_~"))
    blanks = len(stripped[end:]) - len(stripped[end:].lstrip())
    box = _BOX.match(stripped, end + blanks)
    if box:
        end = box.end()
    elif not end and (command := _COMMAND.match(stripped)):
        end = command.end()
    rest = stripped[end:]
    if not end or not rest.strip():
        return None
    run = stripped[:end].strip()
    tight = not rest[0].isspace() and not (box and box[0] == "<li>")
    if tight and (rest[0].isdigit() or not set(run) <= set(BULLETS) | _shapes(run) or run == ">"):
        return None
    return Bullet(run, rest.strip(), tight)


def _shapes(run: str) -> set[str]:
    return {c for c in run if unicodedata.category(c) in ("So", "Mn", "Sk", "Cf")}


def _run_end(text: str) -> int:
    """Where the symbols end that the text begins with: as many words of symbols as there are, or
    symbols right before a word."""
    end = 0
    while (symbols := _symbols(text[end:])) and text[end + symbols :][:1].isspace():
        end += symbols
        end += len(text[end:]) - len(text[end:].lstrip())
    return len(text[:end].rstrip()) if end else _symbols(text)


def _symbols(text: str) -> int:
    """How many characters of symbols the text begins with."""
    count = 0
    for count, character in enumerate(text):
        kind = unicodedata.category(character)
        joins = count > 0 and (character == "\u200d" or kind in ("Sk", "Mn", "Me"))
        letter = _in_circle(character)
        symbol = kind[0] in "SP" and kind not in ("Sc", "Sk") and character not in _NO_BULLET
        if not joins and (letter or not symbol):
            return count
    return count + 1 if text else 0


def _in_circle(character: str) -> bool:
    """Whether it is a letter in a circle or in parentheses, as one character."""
    plain = unicodedata.normalize("NFKC", character).strip("()")
    return character != plain and plain.isalpha() and unicodedata.category(character) == "So"


def rises(values: Sequence[int]) -> bool:
    """Whether each value is the one before and one more, or the list begins anew."""
    steps = list(pairwise(values))
    ups = sum(after == before + 1 for before, after in steps)
    return ups > 0 and all(after == before + 1 or after in (0, 1) for before, after in steps)


def _ordinals(text: str, *, opened: bool) -> Iterator[Mark]:
    for system, value, end in _values(text):
        yield from _closed(system, "", value, text[end:], opened=opened)
    for label, start in _labels(text):
        for system, value, end in _values(text[start:]):
            if system not in ("roman", "stem", "letter"):
                yield from _closed(system, label, value, text[start + end :], opened=opened)


def _labels(text: str) -> Iterator[tuple[str, int]]:
    """Words or a sign before an ordinal, and where it begins."""
    digit = re.search(r"[\d\u2460-\u24ff\u2776-\u2793]", text[:40])
    starts = {digit.start()} if digit else set()
    starts |= {m.start() for m in re.finditer(r"[一二三四五六七八九十]", text[:12])}
    words = re.finditer(r"^[^\W\d_]+ (?=[A-Z](?:[:.)]|[a-z]{2,}))", text[:40])
    starts |= {match.end() for match in words}
    for start in sorted(starts - {0}):
        label = _LABEL.fullmatch(text, 0, start)
        if label:
            yield " ".join((label["label"] or "").casefold().split()) or "#", start


def _values(text: str) -> Iterator[tuple[str, int, int]]:
    """(system, value, where it ends) of every ordinal that the text may begin with."""
    if keycap := _KEYCAP.match(text):
        digits = re.sub(r"[^0-9]", "", keycap[0])
        yield "enclosed", int(digits or 10), keycap.end()
        return
    first = text[:1]
    value = enclosed(first)
    if value is not None:
        yield "enclosed", value, 1
    elif (of_all := _OF_ALL.match(text)) and 0 < int(of_all[1]) <= int(of_all[2]):
        yield f"of {int(of_all[2])}", int(of_all[1]), of_all.end()
    elif decimal := _DECIMAL.match(text):
        yield "decimal", int(decimal[0].rpartition(".")[2]), decimal.end()
    else:
        yield from _letters(text, first)


def _letters(text: str, first: str) -> Iterator[tuple[str, int, int]]:
    if match := _ROMAN.match(text):
        value = ROMAN.get(unicodedata.normalize("NFKC", match[0]).lower(), 0)
        if value:
            yield "roman", value, match.end()
    if (word := _WORD.match(text)) and (number := numbered(word[0])):
        yield "word", number, word.end()
    if (match := _CHINESE.match(text)) and match[1] in CHINESE:
        yield "chinese", CHINESE[match[1]], match.end()
    if first and first in STEMS:
        yield "stem", STEMS.index(first) + 1, 1
    elif _in_circle(first):
        letter = unicodedata.normalize("NFKC", first).strip("()").lower()
        yield "enclosed letter", ord(letter[0]) - ord("a") + 1, 1
    elif first.isalpha() and unicodedata.category(text[1:2] or " ")[0] not in "LMN":
        letter = "".join(filter(str.isalpha, unicodedata.normalize("NFKC", first)))
        if letter.isascii():
            yield "latin", ord(letter.lower()) - ord("a") + 1, 1
        else:
            yield "letter", ord(letter[0]), 1


def _closed(system: str, label: str, value: int, after: str, *, opened: bool) -> Iterator[Mark]:
    """The mark, if what follows the ordinal can end one."""
    closers = _CLOSERS.match(after)
    run = closers[0] if closers else ""
    if after[len(run) :][:1].strip():  # emphasis right before a text belongs to it
        run = run.rstrip(_EMPHASIS)
    rest = after[len(run) :]
    marks = set(run) - {" ", "\t"}
    glued = bool(rest) and not rest[0].isspace()
    if run[-1:] in tuple(".:,-") and rest[:1].isdigit():
        return  # 3.5 stars, 12:30 on a clock, 1,000 candles
    if opened and not marks & set(_CLOSING):
        return
    if system == "letter" and not marks & set(".．:：)）]】"):
        return
    if system == "word" and not marks - set(_EMPHASIS):
        return  # **Two** dogs
    if glued and system in ("latin", "roman", "word") and not marks & set(")）]】、*_"):
        return  # e.g., U.S.
    closing = _closing(system, marks, after, run, rest)
    if closing is not None:
        yield Mark(system, label, value, closing, rest.strip(), alone=False)


def _closing(system: str, marks: set[str], after: str, run: str, rest: str) -> Closing | None:
    """What ends the ordinal; None if nothing does."""
    if marks & (_MARKS | set(_EMPHASIS)) or system.startswith("enclosed"):
        return "mark"
    if rest.startswith("\t") or run == after:
        return "mark"
    if marks & set("-–—"):
        return "mark" if rest[:1].isspace() else None  # 2-story house
    if marks:
        return "comma"
    return "blank" if rest[:1].isspace() else None
