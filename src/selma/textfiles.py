"""Text files of others, read whole and strictly: what cannot be meant is refused, with its line."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selma.errors import DataError
from selma.plainfiles import plain_bytes
from selma.texts import quoted

MOST_BYTES = 1_000_000_000
"""Of a file that is read whole."""


def read_text(path: Path) -> str:
    """The whole file without its byte order mark: UTF-8, or UTF-16 with one. Raises DataError."""
    try:
        data = plain_bytes(path, most=MOST_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: text must be UTF-8, but is not. Save it as UTF-8."
        ) from error


def encoding_of(data: bytes) -> str:
    """The encoding of a text file that begins so: UTF-8, or UTF-16 with a byte order mark."""
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if is_wide else "utf-8-sig"


def json_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, or of one JSON list of them; [] if there is no file.

    Empty lines are left out. Raises DataError with the line that is no object, or has a key
    twice.
    """
    if not path.exists():
        return []
    text = read_text(path)
    if text.lstrip().startswith("["):
        return _listed(path, text)
    rows = []
    # Not splitlines: it also splits at U+2028 and its like, which may stand inside a prompt.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = _parsed(line, f"{path}, line {number}")
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number} must be one JSON object, but is {line.strip()[:80]!r}. "
                "Correct this line."
            )
        rows.append(require_writable(row, f"{path}, line {number}"))
    return rows


def _listed(path: Path, text: str) -> list[dict[str, Any]]:
    rows = _parsed(text, str(path))
    if not isinstance(rows, list):
        raise DataError(
            f"{path} begins like a JSON list, but is none. Write one JSON object in each line."
        )
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(
                f"{path} must list JSON objects, but entry {number} is {quoted(row)}. Correct it."
            )
    return [require_writable(row, f"{path}, entry {number}") for number, row in enumerate(rows, 1)]


def writable(text: str) -> str:
    """The text with a question mark for each half of a character, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def require_writable(row: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """What was read there, if it can be written again. Raises DataError."""
    text = json.dumps(row, ensure_ascii=False)
    if text != writable(text):
        raise DataError(
            f"{where} has one half of a character (a lone surrogate such as \\ud83d). "
            "Write the whole character."
        )
    return row


def parsed_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError or RecursionError; also for an object that has a key
    twice, of which others keep the last alone."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:
            raise ValueError(f"the key {quoted(key)} stands there twice")
        row[key] = value
    return row


def _parsed(text: str, where: str) -> Any:
    """What the text says; None where it is no JSON. Raises DataError for a key that stands there
    twice."""
    try:
        return parsed_json(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    except ValueError as error:
        raise DataError(f"{where} cannot be used: {error}.") from error


def csv_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row by its columns' names, with the line where it ends; empty lines are left out, and
    blanks around the names.

    Raises DataError where the header has not each of `columns` once, a row has more or fewer cells
    than the header, or the text is no CSV.
    """
    # strict: without it the reader guesses what a stray quote means.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        wrong = [name for name in columns if header.count(name) != 1]
        if wrong:
            first = ", ".join(header)[:200] or "nothing"
            raise DataError(
                f"{path} must have the columns {', '.join(columns)}, each once; this does not hold "
                f"for {', '.join(wrong)}. Its first line has: {first}."
            )
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: as many cells as columns must stand in a row."
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: it is not valid CSV: {error}.") from error
