"""A user's own prompts, without questions: plain text, CSV, JSON lines or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.prompts import prompt_id
from selma.scores.benchmarks.layouts import (
    Benchmark,
    clashing_ids,
    columns,
    first_keys,
    group_of,
    unsafe_id,
)
from selma.scores.measures import DSG
from selma.textfiles import csv_rows, parsed_json, read_text
from selma.texts import printable, quoted

_TEXT_KEYS = ("text", "prompt", "caption")


def read_texts(path: Path) -> list[BenchmarkPrompt]:
    """Read a file's prompts, in its order, without questions.

    - .txt: one prompt on each line; empty lines and lines that begin with # are left out;
    - .csv with a header, .jsonl, .json (a list of objects): `text` (or prompt, or caption), and
      optionally `id` and `group`; everything else is ignored.

    Without an id, a prompt gets one from its text, so that inserting a line changes no other id.
    Raises DataError, with the line, for an ambiguous file.
    """
    prompts: dict[str, BenchmarkPrompt] = {}
    line_of: dict[str, int] = {}
    for number, row in _rows(path):
        prompt = _prompt(path, number, row)
        if prompt.id in prompts:
            raise DataError(
                f"{path}, line {number}: {prompt.id} is already in line {line_of[prompt.id]}. "
                "Leave one of them out, or give it another id."
            )
        prompts[prompt.id], line_of[prompt.id] = prompt, number
    if not prompts:
        raise DataError(f"{path} must hold prompts, but has none.")
    clash = clashing_ids(prompts)
    if clash:
        raise DataError(f"{path}: ids {clash[0]!r} and {clash[1]!r} differ only in case.")
    return list(prompts.values())


def _prompt(path: Path, number: int, row: dict[str, Any]) -> BenchmarkPrompt:
    value = next((row[key] for key in _TEXT_KEYS if row.get(key) is not None), None)
    if not isinstance(value, str) or not printable(value).strip():
        raise DataError(
            f"{path}, line {number}: a prompt must have a text (text, prompt or caption), but "
            f"{quoted(value)} came."
        )
    text = printable(value).strip()
    id = row.get("id", row.get("item_id"))
    id = prompt_id("", text) if id in (None, "") else str(id).strip()
    unsafe = unsafe_id(id)
    if unsafe:
        raise DataError(f"{path}, line {number}: id {unsafe}.")
    group = row.get("group")
    return BenchmarkPrompt(
        id=id, text=text, group=str(group) if group else group_of(id), questions=()
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (or index in a JSON list, from 1) and content of each row."""
    match path.suffix.lower():
        case ".csv":
            yield from csv_rows(path)
        case ".json":
            content = _json(path, 1, read_text(path))
            for number, row in enumerate(content if isinstance(content, list) else [content], 1):
                yield number, _object(path, number, row)
        case ".jsonl":
            for number, line in _lines(read_text(path)):
                yield number, _object(path, number, _json(path, number, line))
        case _:
            for number, line in _lines(read_text(path)):
                if not line.startswith("#"):
                    yield number, {"text": line}


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines: it also splits at U+2028 and its like, which may occur inside a prompt.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def _json(path: Path, number: int, text: str) -> Any:
    try:
        return parsed_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: it is not valid JSON: {error}.") from error


def _object(path: Path, number: int, row: Any) -> dict[str, Any]:
    if isinstance(row, str):
        return {"text": row}
    if not isinstance(row, dict):
        raise DataError(
            f"{path}, line {number}: a prompt must be an object, but {quoted(row)} came."
        )
    return row


def _recognises(path: Path) -> bool:
    keys = set(columns(path)) | first_keys(path)
    return path.suffix.lower() in (".txt", ".jsonl") or bool(keys & set(_TEXT_KEYS))


TEXTS = Benchmark(
    name="prompts",
    layout="your own prompts (.txt, or .csv, .jsonl, .json with text and, as you wish, id)",
    measure=DSG,
    recognises=_recognises,
    read=read_texts,
)
