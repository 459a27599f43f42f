"""Captions in a table, or in elements of XML or HTML."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence

from selma.prompts.json_replies import caption_key, is_caption_key
from selma.prompts.markers import rises

_ROW = re.compile(r"^\s*\|(.+)\|\s*$")
_RULE = re.compile(r"^\s*[|+]?\s*:?[-=]{2,}:?\s*(?:[|+]\s*:?[-=]+:?\s*)*[|+]?\s*$")
_ELEMENT = re.compile(r"<([A-Za-z][\w:-]*)(?:\s[^<>]*)?>([^<>]*)</\1\s*>")
_INLINE = {"a", "b", "i", "em", "strong", "span", "code", "u", "s", "br", "sub", "sup", "mark"}
_ERROR_PAGE = re.compile(
    r"\s*<(?:!doctype|html|head)\b.{0,500}?<(title|h1)\b[^>]*>[^<]*(?:\b[45]\d\d\b|error)",
    re.IGNORECASE | re.DOTALL,
)
"""A gateway's page in place of a reply."""
_DELIMITERS = ",;\t"
_LONGEST_ROW = 10_000  # characters; csv reads no cell of more than 131,072


def columns(text: str) -> list[str] | None:
    """The cells that hold captions, of a Markdown table or a drawn one; None if there is none."""
    lines = text.split("\n")
    rules = [n for n, line in enumerate(lines) if _RULE.match(line) and set(line) & set("|+")]
    rows = [n for n, line in enumerate(lines) if _ROW.match(line)]
    if not rules and len(rows) < 2:
        return None
    if not rows:  # without outer bars
        rows = [n for n, line in enumerate(lines) if "|" in line]
    cells = {n: _cells(lines[n]) for n in rows if n not in rules}
    under = [n for n in rules if any(row < n for row in cells)]
    heading = next((cells[n] for n in cells if under and n < under[0]), None)
    body = [row for n, row in cells.items() if not under or n > under[0]]
    return _column(body, heading)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _column(rows: Sequence[Sequence[str]], heading: Sequence[str] | None) -> list[str]:
    """Of the column that is named as captions are, else of the one with the longest texts."""
    if not rows:
        return []
    width = max(map(len, rows))
    if heading is not None:
        named = [n for n, name in enumerate(heading) if is_caption_key(name)]
        best = named[0] if named and named[0] < width else None
    else:
        best = None
    if best is None:
        totals = [sum(len(row[n]) for row in rows if n < len(row)) for n in range(width)]
        best = totals.index(max(totals))
    return [row[best] if best < len(row) else "" for row in rows]


def elements(text: str) -> list[str] | None:
    """The texts of the elements that hold most of the reply; None unless elements hold it."""
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    if _ERROR_PAGE.match(text):
        return []
    for name, content in _ELEMENT.findall(text):
        if name.lower() not in _INLINE and any(c.isalpha() for c in content):
            by_name[re.sub(r"[\d_-]+$", "", name.lower())].append(" ".join(content.split()))
    if not by_name:
        return None
    name, texts = max(by_name.items(), key=lambda entry: sum(map(len, entry[1])))
    outside = _ELEMENT.sub("", text)
    most = sum(map(len, texts)) > len(re.sub(r"<[^<>]*>|\s", "", outside))
    repeated = len(texts) > 1 or is_caption_key(name)
    begins = re.search(rf"^\s*(?:<[^<>]*>\s*)*<{re.escape(name)}", text, re.I | re.M) is not None
    return texts if most and repeated and begins else None


def enclosed_lists(text: str) -> list[str]:
    """What lies in elements that are named as several captions and have several lines."""
    return [
        content
        for name, content in _ELEMENT.findall(text)
        if name.lower().endswith("s") and is_caption_key(name) and "\n" in content.strip()
    ]


def quoted_rows(lines: Sequence[str]) -> list[str] | None:
    """The cells that hold captions, of rows with quotes around cells and a delimiter between; None
    unless a heading names captions or a column of numbers counts the rows."""
    for delimiter in _DELIMITERS:
        quoted = [line[:_LONGEST_ROW] for line in lines if line.count('"') > 1]
        rows = [_row(line, delimiter) for line in quoted]
        width = len(rows[0]) if rows else 0
        if len(rows) < 2 or any(len(row) != width for row in rows):
            continue
        if _names_columns(rows):
            return _column(rows[1:], rows[0])
        counted = [[row[n] for row in rows] for n in range(width)]
        if width > 1 and any(
            all(map(str.isdecimal, cells)) and rises([*map(int, cells)]) for cells in counted
        ):
            return _column(rows, None)
    return None


def _row(line: str, delimiter: str) -> list[str]:
    """Its cells, without empty ones at its end."""
    cells = next(csv.reader([line.strip()], delimiter=delimiter, skipinitialspace=True), [])
    while cells and not cells[-1].strip():
        cells.pop()
    return cells


def _names_columns(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row has names, one of them a caption's, and is no sentence."""
    names = all(len(re.split(r"[\s_]+", cell.strip())) <= 2 for cell in rows[0])
    alone = len(rows[0]) > 1 or re.fullmatch(r"[^\W\d]+", rows[0][0]) is not None
    longer = all(len(max(row, key=len)) > len(max(rows[0], key=len)) for row in rows[1:])
    return names and alone and longer and caption_key(rows[0]) is not None
