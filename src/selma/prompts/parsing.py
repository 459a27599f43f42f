"""A language model's reply → captions, whatever shape the reply has; never a blank one.

A reply is data: nothing in it is obeyed, formatted or used as a path.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from selma.backbones.language.replies import FENCE, REFUSAL, readable

_LABEL = r"(?:caption|prompt|text|description|example|item|sentence|no\.?|number|nr\.?)"
_NUMBERED = re.compile(
    rf"^\s*(?:[-*+•>]\s+)?(?:\#+\s*)?[*_]{{0,2}}[\(\[]?(?:{_LABEL}\s*)?\#?\s*(\d{{1,4}})\s*"
    r"(?:[*_]{0,2}\s*[.):\]、．）：]+|\s[-–—]\s|\s*[*_]{1,2}\s)[*_]{0,2}(?!\d)\s*(.*)$",
    re.IGNORECASE,
)
_BULLET = re.compile(
    r"^\s*(?:[-*+•‣◦▪●·–—→»✓✔]|\[[ xX]?\]|<li>|[a-zA-Z]\)|\([a-zA-Z]\))\s*(?=\S)(.*)$"
)
_ROW = re.compile(r"^\s*\|(.+)\|\s*$")
_CHATTER = re.compile(
    r"^\W*(sure|certainly|of course|absolutely|okay|great|here (are|is)|here['’]s|below (are|is)|"
    r"these are|i hope|hope (this|these)|let me know|feel free|note that|please note|"
    r"would you like|do you want|if you (need|want|would))\b",
    re.IGNORECASE,
)
_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」", "`": "`"}
_TEXT_KEYS = ("caption", "prompt", "text", "description", "sentence", "content", "value", "title")


@dataclass(frozen=True)
class Parsed:
    """What one reply holds: its captions in order, and how many items were dropped for what
    ("blank", "refusal", "cut": an item that the limit on tokens broke off)."""

    captions: tuple[str, ...]
    dropped: Counter[str] = field(default_factory=Counter)


def parse_reply(text: str | None, *, truncated: bool = False) -> Parsed:
    """The captions in a reply: numbered, bulleted, tabled, as JSON or one on each line.

    `truncated` says that the model was stopped by its limit, so the last item is not whole. Each
    caption is one line of at least one letter or digit, without control characters.
    """
    clean = readable(text or "")
    items = _from_json(clean)
    complete = items is not None and not truncated
    if items is None:
        items = _from_lines(clean)
        complete = not truncated
    elif truncated:
        complete = True  # only finished JSON strings were taken
    dropped: Counter[str] = Counter()
    if items and not complete:
        items.pop()
        dropped["cut"] += 1
    captions = []
    for item in map(_bare, items):
        if not any(c.isalnum() for c in item):
            dropped["blank"] += 1
        elif REFUSAL.match(item):
            dropped["refusal"] += 1
        else:
            captions.append(item)
    return Parsed(tuple(captions), dropped)


def _from_json(text: str) -> list[str] | None:
    """The strings of a reply that is JSON, bare or in a fence; None if it is not JSON."""
    inner = "\n".join(line for line in text.split("\n") if not FENCE.match(line)).strip()
    start = min((at for at in (inner.find("["), inner.find("{")) if at >= 0), default=-1)
    if start < 0 or not _opens_json(inner[start:]):
        return None
    if any(_NUMBERED.match(line) for line in inner[:start].split("\n")):
        return None  # a list whose captions hold brackets
    try:
        value, _ = json.JSONDecoder().raw_decode(inner[start:])
        rest = inner[start:].split("\n")
        if isinstance(value, dict) and len(rest) > 1:  # one object on each line
            values = [json.loads(line) for line in rest if line.strip()]
            return list(_strings(values))
    except (ValueError, RecursionError):
        return _finished_strings(inner[start:])
    return list(_strings(value))


def _opens_json(text: str) -> bool:
    return re.match(r'[\[{]\s*("|[\[{]\s*["\[{])', text) is not None


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    """Captions in a JSON value: strings, or the text field of objects, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < 8:
        for part in value:
            yield from _strings(part, depth + 1)
    elif isinstance(value, dict) and depth < 8:
        named = [value[key] for key in value if key.lower() in _TEXT_KEYS]
        for part in named or list(value.values()):
            yield from _strings(part, depth + 1)


def _finished_strings(text: str) -> list[str] | None:
    """The closed strings of JSON that is broken, most often by the limit on tokens."""
    strings = re.findall(r'"((?:[^"\\\n]|\\.)*)"(\s*:)?', text)
    keyed = any(colon for _, colon in strings)
    captions = []
    key = ""
    for raw, colon in strings:
        try:
            string = json.loads(f'"{raw}"')
        except ValueError:
            continue
        if colon:
            key = string
        elif not keyed or key.lower() in _TEXT_KEYS or key.isdigit():
            captions.append(string)
    return captions or None


def _from_lines(text: str) -> list[str]:
    lines = ["" if FENCE.match(line) else line for line in text.split("\n")]
    for marker in (_NUMBERED, _BULLET):
        if any(marker.match(line) for line in lines):
            return list(_marked(lines, marker))
    if any(_ROW.match(line) for line in lines):
        return list(_rows(lines))
    return _plain(lines)


def _marked(lines: Iterable[str], marker: re.Pattern[str]) -> Iterator[str]:
    """Items that begin with a marker; further lines belong to them up to an empty line."""
    item: list[str] | None = None
    number: int | None = None
    for line in lines:
        match = marker.match(line)
        if match:
            if item is not None:
                yield from _split_run_on(" ".join(item), number)
            item = [match.groups()[-1]]
            number = int(match[1]) if marker is _NUMBERED else None
        elif item is not None and not line.strip() and any(map(str.strip, item)):
            yield from _split_run_on(" ".join(item), number)
            item = None
        elif item is not None and not _CHATTER.match(line):
            item.append(line.strip())
    if item is not None:
        yield from _split_run_on(" ".join(item), number)


def _split_run_on(item: str, number: int | None) -> Iterator[str]:
    """Numbered items that came on one line: "4. a dog 5. a cat"."""
    while number is not None:
        number += 1
        head, mark, rest = _partition(item, rf"\s+[*_(]{{0,3}}{number}[.)]\s+")
        if not mark:
            break
        yield head
        item = rest
    yield item


def _partition(text: str, pattern: str) -> tuple[str, str, str]:
    match = re.search(pattern, text)
    if not match:
        return text, "", ""
    return text[: match.start()], match[0], text[match.end() :]


def _rows(lines: Iterable[str]) -> Iterator[str]:
    """The longest cell of each row of a Markdown table; its heading and rule are left out."""
    rows = [match[1].split("|") for line in lines if (match := _ROW.match(line))]
    rules = [i for i, cells in enumerate(rows) if all(set(c.strip()) <= set(":-") for c in cells)]
    body = rows[rules[0] + 1 :] if rules else rows
    for cells in body:
        yield max(cells, key=lambda cell: len(cell.strip()))


def _plain(lines: Iterable[str]) -> list[str]:
    """One caption on each line, or nothing where the lines read like an answer in prose."""
    captions = [line.strip() for line in lines if line.strip()]
    captions = [line for line in captions if not _CHATTER.match(line) and not line.endswith(":")]
    prose = any(re.search(r"[.!?]['\"”’]?\s+[A-Z]", line) for line in captions)
    if len(captions) < 2 or prose or REFUSAL.match(captions[0]):
        return []
    return captions


def _bare(item: str) -> str:
    """A caption without the marks around it: quotes, emphasis, labels, trailing commas."""
    item = re.sub(r"</?(li|p|br|ul|ol|b|i|em|strong)\s*/?>", " ", item)
    item = re.sub(r"\s*[\(\[]\d+ words?[\)\]]\s*$", "", " ".join(item.split()))
    # A bold title before the text ("**Calm morning:** a lake ...") is not part of the text.
    item = re.sub(r"^(\*\*|__)[^*_]{1,60}?(:\1|\1\s*[:–—-])\s+(?=\S)", "", item)
    item = re.sub(rf"^[*_]{{0,2}}{_LABEL}[*_]{{0,2}}\s*:[*_]{{0,2}}\s+(?=\S)", "", item, flags=re.I)
    before = None
    while before != item:
        before = item
        item = item.replace("**", "").strip().rstrip(",;|").strip()
        for mark in ("__", "*", "_"):
            inner = item[len(mark) : -len(mark)]
            if len(item) > 2 * len(mark) and item == f"{mark}{inner}{mark}" and mark not in inner:
                item = inner
        if len(item) > 1 and _PAIRS.get(item[0]) == item[-1] and item[0] not in item[1:-1]:
            item = item[1:-1]
    return item
