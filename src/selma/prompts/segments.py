"""The parts of a list, each from one marker to the next → the text of each.

What a part consists of, the others tell: if all have a short bold line and then more, that line is
a title; if all have "Style: ..." below, this is no caption.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import NamedTuple

from selma.prompts.json_replies import caption_key
from selma.prompts.markers import bullet_of
from selma.prompts.remarks import is_remark

BOLD = re.compile(r"^\s*(\*\*|__)[^*_]+\1[:：]?\s*$")
"""A line that is wholly in bold."""
FIELD = re.compile(
    r"^[*_]{0,2}(?P<key>[^\W\d_]+(?:[ _-][^\W\d_]+){0,2})[*_]{0,2}\s*[:：]\s*[*_]{0,2}\s*"
    r"(?P<value>\S.*)$"
)
"""A label of up to three words, and what it says."""
_SENTENCE = re.compile(r"[.!?。！？…]['\"”’)]*\s*$")
_TITLE_WORDS = 5


class Texts(NamedTuple):
    """What a reply lists, and whether the last text goes to the reply's end."""

    texts: list[str]
    open: bool


@dataclass
class Segment:
    """One marked line without its marker, and the lines up to the next."""

    head: str
    body: list[str] = field(default_factory=list)
    system: str = ""
    """Of its number; empty if the marker is none."""
    value: int = 0
    heading: bool = False


def segment_texts(segments: Sequence[Segment]) -> Texts:
    """The text of each part, in order; an empty one where it has none."""
    children = [_children(segment) for segment in segments]
    if all(children) and _are_titles([segment.head for segment in segments], children):
        last = _last_line(segments[-1])
        texts = [child for group in children for child in group]
        return Texts(texts, bullet_of(last) is not None)
    keys = _repeated_keys(segments)
    key = caption_key(keys)
    titled = _titled(segments)
    texts = []
    consumed = True
    for number, segment in enumerate(segments):
        lines = _Lines(segment, keys)
        text = lines.of_key(key) if key is not None else None
        if text is None:
            text = lines.paragraph(skip_head=titled or not segment.head)
        consumed = lines.exhausted
        following = segments[number + 1].value if number + 1 < len(segments) else None
        texts += _run_on(text, segment, following)
    return Texts(texts, consumed)


class _Lines:
    """One part's lines, as they are used up."""

    def __init__(self, segment: Segment, keys: Sequence[str]) -> None:
        self._head = segment.head
        self._body = segment.body
        self._keys = keys
        self._used = 0  # lines of the body

    @property
    def exhausted(self) -> bool:
        return not any(line.strip() for line in self._body[self._used :])

    def of_key(self, key: str) -> str | None:
        """What the field of this name says; None if there is none."""
        for number, line in enumerate((self._head, *self._body)):
            match = FIELD.match(line.strip())
            if match and match["key"].casefold() == key:
                self._used = number
                return self._wrapped(match["value"])
        return None

    def paragraph(self, *, skip_head: bool) -> str:
        """The head with the lines that go on with it, or the first paragraph below."""
        if not skip_head:
            return self._wrapped(self._head)
        below = [n for n, line in enumerate(self._body) if line.strip()]
        texts = [n for n in below if not self._is_aside(self._body[n].strip(), bold=False)]
        first = next(iter(texts or below), None)
        if first is None:
            return ""
        self._used = first + 1
        return self._wrapped(self._body[first].strip())

    def _wrapped(self, text: str) -> str:
        """The text with the lines below that belong to it."""
        for line in self._body[self._used :]:
            if not line.strip() or self._is_aside(line.strip()) or not _goes_on(text, line):
                break
            text = f"{text} {line.strip()}"
            self._used += 1
        return text

    def _is_aside(self, line: str, *, bold: bool = True) -> bool:
        """A heading, a bullet, a line in parentheses or bold, or a field that other parts have."""
        match = FIELD.match(line)
        aside = match is not None and match["key"].casefold() in self._keys
        heading = line.startswith("#") or (bold and BOLD.match(line) is not None)
        note = line.startswith("(") and line.endswith(")")
        return aside or heading or note or bullet_of(line) is not None


def _goes_on(text: str, line: str) -> bool:
    """Whether a line goes on with the text above: it is indented, or what came was no whole
    sentence and this begins as the middle of one."""
    if is_remark(line.strip()):
        return False
    if line[0].isspace():
        return True
    first = next((c for c in line if c.isalnum()), "")
    if text.rstrip().endswith((",", "，", "、")):
        return True
    return not _SENTENCE.search(text) and not first.isupper()


def _children(segment: Segment) -> list[str]:
    """The bulleted lines of a part."""
    bullets = (bullet_of(line) for line in segment.body)
    return [bullet.rest for bullet in bullets if bullet is not None]


def _are_titles(heads: Sequence[str], children: Sequence[Sequence[str]]) -> bool:
    """Whether heads name groups: they are short, and what is below is longer and has no labels."""
    fields = [FIELD.match(child) for group in children for child in group]
    keys = Counter(match["key"].casefold() for match in fields if match)
    labelled = sum(count for count in keys.values() if count > 1)
    below = mean(len(child) for group in children for child in group)
    short = all(len(head.split()) <= _TITLE_WORDS for head in heads)
    return short and 2 * labelled < len(fields) and below > mean(map(len, heads))


def _titled(segments: Sequence[Segment]) -> bool:
    """Whether each part has a title on its first line and the caption below."""
    below = [next((line for line in s.body if line.strip()), "") for s in segments]
    if len(segments) < 2 or not all(below) or any(bullet_of(line) for line in below):
        return False
    marked = all(
        s.heading or not s.head or BOLD.match(s.head) or s.head.endswith((":", "："))
        for s in segments
    )
    return marked and mean(len(s.head) for s in segments) < mean(map(len, below))


def _repeated_keys(segments: Sequence[Segment]) -> list[str]:
    """The labels that begin a line in several parts, or, in one part, several lines."""
    keys: Counter[str] = Counter()
    for segment in segments:
        keys.update(set(_keys(segment)))
    own = list(_keys(segments[0])) if len(segments) == 1 else []
    alone = own if len(own) > 1 and FIELD.match(segments[0].head) else []
    return [
        key for key, count in keys.items() if count > 1 and 4 * count >= 3 * len(segments)
    ] + alone


def _keys(segment: Segment) -> Iterator[str]:
    for line in (segment.head, *segment.body):
        match = FIELD.match(line.strip())
        if match:
            yield match["key"].casefold()


def _last_line(segment: Segment) -> str:
    return next((line for line in reversed(segment.body) if line.strip()), segment.head)


def _run_on(text: str, segment: Segment, following: int | None) -> Iterator[str]:
    """Numbered texts that came on one line: "4. a dog 5. a cat"."""
    number = segment.value
    while segment.system in ("decimal", "enclosed"):
        number += 1
        if number == following:
            break
        mark = rf"\s+[*_(]{{0,3}}{_written(number, segment.system)}"
        match = re.search(mark, text)
        if match is None:
            break
        yield text[: match.start()]
        text = text[match.end() :]
    yield text


def _written(number: int, system: str) -> str:
    if system == "decimal":
        return rf"{number}[.)]\s+"
    circled = chr(0x2460 + number - 1) if 0 < number <= 20 else ""
    keycap = "".join(f"{digit}\ufe0f?\u20e3" for digit in str(number))
    return rf"(?:{circled}|{keycap})\s*" if circled else rf"{keycap}\s*"
