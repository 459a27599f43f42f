"""A caption without what is put around it: quotes, emphasis, code, brackets, a title in bold."""

from __future__ import annotations

import html
import re

from selma.texts import printable

_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "‹": "›", "„": "“", "‚": "‘",
          "「": "」", "『": "』", "《": "》", "〈": "〉", "＂": "＂", "`": "`", "[": "]", "<": ">",
          "»": "«", "›": "‹", "”": "”", "’": "’", "【": "】", "{": "}"}  # fmt: skip
_OTHER_CLOSERS = {"„": "”", "‚": "’"}
_MARKUP = re.compile(r"</?(?:li|p|br|ul|ol|b|i|em|strong)\s*/?>")
_TITLE = re.compile(r"^(\*\*|__)[^*_]{1,60}?(?::\1|\1\s*[:–—-])\s+(?=\S)")
_LABEL = re.compile(
    r"^[*_]{0,2}(?:caption|prompt|text|description|example|item|sentence)[*_]{0,2}\s*:[*_]{0,2}"
    r"\s+(?=\S)",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*]+?)(?<=[^\s*])\*(?![\w*])")
_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,8});")
_ESCAPED = re.compile(r"\\([\"'*_`#.()\[\]!~>-])")


def bare(item: str) -> str:
    """The caption on one line, without the marks around it."""
    if _ENTITY.search(item):
        item = _ENTITY.sub(lambda entity: html.unescape(entity[0]), _unquoted(item.strip()))
    item = printable(item)
    item = " ".join(_ESCAPED.sub(r"\1", _MARKUP.sub(" ", item)).split())
    # A bold title before the text ("**Calm morning:** a lake ...") is not part of the text.
    item = _LABEL.sub("", _TITLE.sub("", item))
    before = None
    while before != item:
        before = item
        item = item.replace("**", "").replace("~~", "").strip().rstrip(",;|").strip()
        item = _unquoted(_unemphasised(item))
    return _EMPHASIS.sub(r"\1", item)


def is_quoted(line: str) -> bool:
    """Whether quotes or emphasis go around the whole line."""
    text = line.strip().rstrip(",.;")
    return len(text) > 2 and _unquoted(text) != text


def titled_in_bold(texts: list[str]) -> list[str]:
    """The texts without a title in bold, if all begin with one and go on with a capital letter."""
    matches = [re.match(r"(\*\*|__)[^*_]{1,60}\1\s+(?=[^\W\d_a-z])", text) for text in texts]
    if len(texts) < 2:
        return texts
    rests = [text[m.end() :] for text, m in zip(texts, matches, strict=True) if m is not None]
    return rests if len(rests) == len(texts) and all(r[0].isupper() for r in rests) else texts


def _unemphasised(item: str) -> str:
    for mark in ("__", "*", "_"):
        inner = item[len(mark) : -len(mark)]
        if len(item) > 2 * len(mark) and item == f"{mark}{inner}{mark}" and mark not in inner:
            item = inner
    return item


def _unquoted(item: str) -> str:
    """Without the quotes around it; a period behind them goes, too. Quotes that hold a part alone
    stay."""
    for end in (item, item.rstrip(".")):
        if len(end) > 2 and end[-1] in (_PAIRS.get(end[0]), _OTHER_CLOSERS.get(end[0])):
            inner = end[1:-1]
            if _whole(inner, end[0], end[-1]):
                return inner.strip()
    return item


def _whole(inner: str, opening: str, closing: str) -> bool:
    """Whether these quotes do not occur within, apart from apostrophes."""
    if opening in "'‘‚’":
        inner = re.sub(r"(?<=\w)['’](?=\w)", "", inner)
    return opening not in inner and closing not in inner
