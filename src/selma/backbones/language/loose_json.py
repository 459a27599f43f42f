"""JSON as language models write it: in prose, in Python's spelling, with commas too many, cut.

A string that was cut is left out, which libraries that repair JSON do not tell from a whole one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_DEPTH = 60  # deeper is no list of texts
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "«": "»", "「": "」"}
_CLOSERS = {"[": "]", "{": "}", "(": ")"}
_SKIPPED = re.compile(r"(?:[\s,;]|\.{3}|…|//[^\n]*|/\*.*?(?:\*/|\Z)|#[^\n]*)+", re.DOTALL)
_WORD = re.compile(r"-?\d[\d.eE+-]*|[^\W\d][\w$-]*")
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None, "undefined": None}
_BEGINS = re.compile(
    r"[\[{]\s*(?:(?://|\#|/\*)[^\n]*\s*)*(?:[\"'`“„]|[\[{]|\(\s*[\"']|[\w$-]+\s*:\s*[\"'\[{\d])"
    r"|(?:(?<==)|(?<==\s)|\A)\(\s*[\"']|[\[{]\s*\]?\}?\s*\Z"
)
_FOLLOWS = re.compile(r"[ \t]*(?:[,\]}):;\n#]|=>|//|/\*|\Z)|[ \t]+[\"'`“„«]")
_QUOTED_LINE = re.compile(r"^[ \t]*(?=[\"'`“„«])", re.MULTILINE)
_MOST_FAILURES = 50  # brackets that begin nothing; a reply of lists has none
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "", "f": ""}


class Pairs(list[tuple[str, Any]]):
    """An object, with keys that came twice."""

    def as_dict(self) -> dict[str, Any]:
        return {key: plain(value) for key, value in self}


class Value(NamedTuple):
    """A value, where it stands in the text, and whether a string in it was cut."""

    value: Any
    start: int
    end: int
    cut: bool


class _NoJson(Exception):
    pass


def values(text: str, *, ended: bool = False) -> Iterator[Value]:
    """Every list and object in the text that is not part of another, in order; with `ended`,
    without the objects of a list that the text's end broke off."""
    position = failures = 0
    while failures < _MOST_FAILURES and (match := _BEGINS.search(text, position)):
        try:
            read = _Reader(text, match.start()).read(ended=ended)
        except _NoJson:
            position = match.start() + 1
            failures += 1
            continue
        yield read
        position = read.end


def strings(text: str) -> Value | None:
    """Strings with commas between, which lack only the brackets, from the first line that begins
    with a quote to the end; None if the text is not that."""
    match = _QUOTED_LINE.search(text)
    if match is None:
        return None
    try:
        read = _Reader(f"[{text[match.end() :]}", 0).read()
    except _NoJson:
        return None
    listed = all(isinstance(part, str) for part in read.value)
    listed = listed and not text[match.end() + read.end - 1 :].strip()
    return Value(read.value, match.end(), len(text), read.cut) if listed else None


def plain(value: Any) -> Any:
    """The value with objects as dicts."""
    if isinstance(value, Pairs):
        return value.as_dict()
    return [plain(part) for part in value] if isinstance(value, list) else value


@dataclass
class _Open:
    """A list or object that is being read."""

    closer: str
    parts: list[Any] = field(default_factory=list)
    key: str | None = None

    def add(self, value: Any) -> None:
        if self.closer != "}":
            self.parts.append(value)
        elif self.key is not None:
            self.parts.append((self.key, value))
            self.key = None
        elif isinstance(value, str):  # a set of Python's
            self.parts.append(("", value))

    @property
    def value(self) -> Any:
        return Pairs(self.parts) if self.closer == "}" else self.parts


class _Reader:
    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.start = self.at = start
        self.cut = False

    def read(self, *, ended: bool = False) -> Value:
        """The value that begins here, with what was left open closed, or, of objects with `ended`,
        left out. Raises _NoJson."""
        stack = [_Open(_CLOSERS[self.text[self.at]])]
        self.at += 1
        while True:
            self._skip()
            character = self.text[self.at : self.at + 1]
            if not character or (character in "]})" and len(stack) == 1):
                break
            if character in _CLOSERS:
                if len(stack) >= _DEPTH:
                    raise _NoJson
                stack.append(_Open(_CLOSERS[character]))
                self.at += 1
            elif character in "]})":
                self.at += 1
                stack[-2].add(stack.pop().value)
            else:
                self._scalar(stack[-1])
        self.at += bool(character)
        while len(stack) > 1:
            unended = stack.pop()
            if not (ended and unended.closer == "}" and stack[-1].closer != "}"):
                stack[-1].add(unended.value)
        return Value(stack[0].value, self.start, self.at, self.cut)

    def _scalar(self, parent: _Open) -> None:
        """A string, number or word: a key if a colon follows."""
        word = _WORD.match(self.text, self.at)
        quoted = self.text[self.at] in _QUOTES
        if word and self.text[word.end() : word.end() + 1] in ('"', "'") and len(word[0]) == 1:
            self.at, quoted = word.end(), True  # a prefix of Python's: f"..."
        if quoted:
            value: Any = self._string()
        elif word:
            self.at = word.end()
            value = word[0]
        else:
            raise _NoJson
        colon = re.compile(r"\s*(?::|=>)").match(self.text, self.at)
        if colon and parent.closer == "}" and parent.key is None and value is not None:
            parent.key, self.at = str(value), colon.end()
        elif quoted:
            if value is not None:
                parent.add(value)
        else:
            parent.add(_constant(value))

    def _skip(self) -> None:
        skipped = _SKIPPED.match(self.text, self.at)
        if skipped:
            self.at = skipped.end()

    def _string(self) -> str | None:
        """A string up to the quote that something may follow; None if the text ends before."""
        closer = re.compile(r"\\.|" + re.escape(_QUOTES[self.text[self.at]]), re.DOTALL)
        for quote in closer.finditer(self.text, self.at + 1):
            if quote[0][0] != "\\" and self._may_end(quote.end()):
                raw = self.text[self.at + 1 : quote.start()]
                self.at = quote.end()
                return _unescaped(raw)
        self.at = len(self.text)
        self.cut = True
        return None

    def _may_end(self, position: int) -> bool:
        """Whether what follows is no more of the string, whose quotes may not all be escaped."""
        return _FOLLOWS.match(self.text, position) is not None


def _constant(word: str) -> Any:
    if word.lower() in _CONSTANTS:
        return _CONSTANTS[word.lower()]
    if re.fullmatch(r"-?\d[\d.eE+-]*", word):
        try:
            return json.loads(word)
        except ValueError:
            return 0
    raise _NoJson


def _unescaped(raw: str) -> str:
    try:
        return str(json.loads(f'"{raw}"', strict=False))
    except (ValueError, RecursionError):
        pass

    def character(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        return _ESCAPES.get(match[2], match[2])

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", character, raw, flags=re.DOTALL)
