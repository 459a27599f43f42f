"""A reply that is no JSON → the texts that it lists, by what its lines have in common.

A marker is what line after line begins with in the same part: numbers that go up, one label again
and again, symbols. What else a line begins with belongs to its text.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from selma.backbones.language.replies import FENCE, REFUSAL
from selma.prompts.json_replies import caption_key
from selma.prompts.markers import BULLETS, Bullet, Mark, bullet_of, readings, rises
from selma.prompts.remarks import is_remark
from selma.prompts.segments import BOLD, FIELD, Segment, Texts, segment_texts
from selma.prompts.tables import columns, elements, enclosed_lists
from selma.prompts.wrapping import is_quoted

_LABELS = re.compile(
    r"(?:image |text )?(?:caption|prompt|text|description|example|item|sentence|image)|#",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\W*(?:[A-Z]|(?:an?|the|un[ae]?|une|el|la|le|les|der|die|das|eine?|um)\s)")
_RULE = re.compile(r"^\s*([-*_=~—─])(?:\s*\1){2,}\s*$")
_TAGS = re.compile(r"^\s*(?:</?[a-zA-Z][\w:-]*(?:\s[^<>]*)?/?>\s*|\\(?:begin|end)\{\w+\}\s*)+$")
_SPEAKER = re.compile(r"\A\s*(?:assistant|model|answer|output|response)\s*[:：]\s*", re.IGNORECASE)
_QUOTED_BLANK = re.compile(r"^\s*>+\s*$")
_HEADING = re.compile(r"^\s*#{1,6}\s|.*[:：=\[{(]\s*$|^\s*[\]})]")
_PROSE = re.compile(r"(?<=\w\w)(?<!\b[MDS][rst])[.!?]['\"”’]?\s+[A-Z]")


def listed_texts(text: str) -> Texts:
    """The texts in a reply, in order, without the markers of its list; none where it is prose."""
    enclosed = [text for inner in enclosed_lists(text) for text in listed_texts(inner).texts]
    if enclosed:
        return Texts(enclosed, False)
    in_table = columns(text)
    in_table = elements(text) if in_table is None else in_table
    if in_table is not None:
        closed = text.rstrip().endswith(("|", ">", "+"))
        return Texts(unmarked(in_table), not closed)
    lines = _lines(text)
    segments = _segments(lines)
    if segments is None:
        return Texts(_plain(text, lines), True)
    texts, to_the_end = segment_texts(segments)
    return Texts(unmarked(texts), to_the_end)


def list_start(text: str) -> int | None:
    """Where the first numbered line begins; None if nothing is numbered."""
    lines = text.split("\n")
    marks = _ordinals(lines)
    return sum(len(line) + 1 for line in lines[: min(marks)]) if marks else None


def unmarked(texts: Sequence[str]) -> list[str]:
    """The texts without what marks all of them."""
    heads = [" ".join(text.split()) for text in texts]
    while (inner := _inner(heads)) != heads:
        heads = inner
    return heads


def _inner(heads: list[str]) -> list[str]:
    """Without one more marker, where each of the texts has it."""
    filled = [number for number, head in enumerate(heads) if any(map(str.isalnum, head))]
    lines = [heads[number] for number in filled]
    for marked in (_ordinal_rests(lines), _bullet_rests(lines), _labelled(lines, known=True)):
        if lines and len(marked) == len(lines) and all(marked.values()):
            rests = dict(zip(filled, marked.values(), strict=True))
            return [rests.get(number, head) for number, head in enumerate(heads)]
    return heads


def _ordinal_rests(lines: Sequence[str]) -> dict[int, str]:
    marks = _ordinals(lines)
    sure = len(marks) > 1 and rises([mark.value for mark in marks.values()])
    return {number: mark.rest for number, mark in marks.items()} if sure else {}


def _bullet_rests(lines: Sequence[str]) -> dict[int, str]:
    if len(lines) > 1 or any("[" in (b.run if (b := bullet_of(line)) else "") for line in lines):
        return _bulleted(lines)
    return {}


def _lines(text: str) -> list[str]:
    """Its lines; blank where they are only fences, tags or rules. Items of HTML have their own."""
    text = re.sub(r"<li\b[^>]*>", "\n<li>", text)
    text = re.sub(r"</?(?:li|ul|ol|p|br|div)\b[^<>]*>(?<!<li>)", " ", text)
    text = _SPEAKER.sub("", text)
    empty = (FENCE, _TAGS, _RULE, _QUOTED_BLANK)
    return ["" if any(p.match(line) for p in empty) else line for line in text.split("\n")]


def _segments(lines: Sequence[str]) -> list[Segment] | None:
    """The lines cut at their markers; None if nothing marks them."""
    heads: dict[int, Segment] = {}
    marks, bullets = _ordinals(lines), _bulleted(lines)
    if marks and not (len(marks) == 1 < len(bullets) and min(bullets) < min(marks)):
        for number, mark in marks.items():
            heads[number] = Segment(
                mark.rest, system=mark.system, value=mark.value, heading=mark.alone
            )
    else:
        rests = bullets or _labelled(lines)
        heads = {number: Segment(rest) for number, rest in rests.items()}
    segments: list[Segment] = []
    for number, line in enumerate(lines):
        if number in heads:
            segment = heads[number]
            segment.head = segment.head if any(map(str.isalnum, segment.head)) else ""
            segments.append(segment)
        elif segments:
            segments[-1].body.append(line)
    return segments or None


def _ordinals(lines: Sequence[str]) -> dict[int, Mark]:
    """Line → its ordinal, of the numbering that marks most lines."""
    groups: defaultdict[tuple[str, str], dict[int, Mark]] = defaultdict(dict)
    for number, line in enumerate(lines):
        for mark in readings(line):
            groups[mark.system, mark.label].setdefault(number, mark)
    accepted = [marks for marks in map(_accepted, groups.values()) if marks]
    return max(accepted, key=lambda marks: (len(marks), -min(marks)), default={})


def _accepted(marks: dict[int, Mark]) -> dict[int, Mark]:
    """The lines of one numbering that it marks; empty if their sequence does not show that they are
    marked at all."""
    first = next(iter(marks.values()))
    sure = {number: mark for number, mark in marks.items() if mark.closing == "mark"}
    if first.system in ("decimal", "enclosed"):
        if sure and _is_steady(first.label, [mark.value for mark in sure.values()]):
            return sure
        bare = not first.label and all(map(_is_spaced, marks.values()))
        return marks if bare and rises([mark.value for mark in marks.values()]) else {}
    if first.system == "letter":
        distinct = len({mark.value for mark in sure.values()}) == len(sure)
        return sure if distinct and len(sure) > 1 else {}
    if first.system in ("chinese", "stem", "word"):
        sure = {number: mark for number, mark in marks.items() if mark.closing != "blank"}
    values = [mark.value for mark in sure.values()]
    if len(values) > 2 and not [*sure.values()][-1].rest:
        values.pop()  # a reply that is cut may end in a part of its next number
    return sure if rises(values) else {}


def _is_steady(label: str, values: Sequence[int]) -> bool:
    """Whether a number with a mark behind it numbers lines: by itself, but after words only if
    these are known, or its numbers differ from line to line."""
    if not label or _LABELS.fullmatch(label):
        return True
    return len(values) > 1 and len(set(values)) == len(values)


def _is_spaced(mark: Mark) -> bool:
    """Whether a number with a blank behind it does not say how many there are."""
    return mark.closing != "blank" or _ARTICLE.match(mark.rest) is not None


def _bulleted(lines: Sequence[str]) -> dict[int, str]:
    """Line → its text, of the lines that begin with symbols."""
    bullets = {n: bullet for n, line in enumerate(lines) if (bullet := bullet_of(line))}
    runs = Counter(bullet.run for bullet in bullets.values())
    bullets = {n: b for n, b in bullets.items() if not b.tight or runs[b.run] > 1 or b.run in "•‣▪"}
    if not bullets:
        return {}
    usual = any(
        set(b.run) <= set(BULLETS) or "[" in b.run or "<" in b.run for b in bullets.values()
    )
    filled = sum(bool(line.strip()) for line in lines[min(bullets) :])
    if not usual and (len(bullets) < 2 or 2 * len(bullets) < filled):
        return {}
    return {number: bullet.rest for number, bullet in _of_one_level(lines, bullets).items()}


def _of_one_level(lines: Sequence[str], bullets: Mapping[int, Bullet]) -> Mapping[int, Bullet]:
    """The outer bullets, or the inner ones if the outer name groups of them."""
    indents = {number: _indent(lines[number]) for number in bullets}
    least = min(indents.values())
    outer = {number: bullet for number, bullet in bullets.items() if indents[number] < least + 2}
    if len(outer) == len(bullets):
        return bullets
    inner = {number: bullet for number, bullet in bullets.items() if number not in outer}
    numbers = list(bullets)
    parents = [n for n, after in pairwise(numbers) if n in outer and after in inner]
    names = all(len(b.rest.split()) <= 4 or b.rest.endswith(":") for b in outer.values())
    return inner if len(parents) == len(outer) and names else outer


def _indent(line: str) -> int:
    expanded = line.expandtabs(4)
    return len(expanded) - len(expanded.lstrip())


def _labelled(lines: Sequence[str], *, known: bool = False) -> dict[int, str]:
    """Line → what follows a label that line after line begins with: a name of captions, or, unless
    it must be such a one, any that begins every line."""
    fields = {n: match for n, line in enumerate(lines) if (match := FIELD.match(line.strip()))}
    counts = Counter(match["key"].casefold() for match in fields.values())
    keys = [key for key, count in counts.most_common() if count > 1]
    key = caption_key(keys)
    if (
        key is None
        and not known
        and keys
        and counts[keys[0]] == sum(map(bool, map(str.strip, lines)))
    ):
        key = keys[0]
    return {n: m["value"] for n, m in fields.items() if m["key"].casefold() == key}


def _plain(text: str, lines: Sequence[str]) -> list[str]:
    """One caption on each line, or nothing where the lines read like an answer in prose."""
    fenced = fenced_lines(text)
    candidates = [line.strip() for line in fenced or lines if line.strip()]
    candidates = [line for line in candidates if not is_remark(line) and not _HEADING.match(line)]
    quoted = [line for line in candidates if is_quoted(line)]
    if len(quoted) > 1:
        candidates = quoted
    elif not all(map(BOLD.match, candidates)):
        candidates = [line for line in candidates if not BOLD.match(line)]
    prose = any(_PROSE.search(line) for line in candidates)
    if len(candidates) < 2 or prose or REFUSAL.match(candidates[0]):
        return []
    return candidates


def fenced_lines(text: str) -> list[str]:
    """The lines within fences."""
    inside = False
    lines = []
    for line in text.split("\n"):
        if FENCE.match(line):
            inside = not inside
        elif inside:
            lines.append(line)
    return lines if any(map(str.strip, lines)) else []
