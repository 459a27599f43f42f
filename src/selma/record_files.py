"""JSON that selma reads from files, its own and others': of the shape that is wanted, or an error
that names file and line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from selma.disk import read_regular, regular, written
from selma.errors import DataError, SelmaError
from selma.manifests import verified
from selma.texts import place, quoted

Shape = TypeVar("Shape")
"""A record's class, or a TypedDict of the keys that a reader needs; others may be there."""
REMEDY = "Remove the file to have it made again."
REMEDY_FOR_REPLIES = (
    "Restore it from a copy; or remove this line and all after it to have them asked for again."
)


def read_record(
    path: Path,
    shape: type[Shape],
    *,
    remedy: str = REMEDY,
    raises: Callable[[str], SelmaError] = DataError,
) -> Shape:
    """The one JSON value in a file. remedy: what to do about a broken one.

    Raises `raises` where the JSON or its shape is another, and DataError if the file is a finished
    item's and was damaged since.
    """
    data = read_regular(verified(path))
    value, fault = _parsed(data)
    if not fault:
        value, fault = _shaped(value, shape)
    if fault:
        raise raises(f"{path} {fault}. {remedy}")
    return cast(Shape, value)


def read_rows(
    path: Path, shape: type[Shape], *, repair: bool = False, remedy: str = REMEDY
) -> list[Shape]:
    """The values of a JSON-lines file; [] if there is none. See `each_row`."""
    return list(each_row(path, shape, repair=repair, remedy=remedy))


def each_row(
    path: Path,
    shape: type[Shape],
    *,
    repair: bool = False,
    remedy: str = REMEDY,
    only: Collection[int] | None = None,
) -> Iterator[Shape]:
    """The values of a JSON-lines file, none if there is none; no more than one is in memory. only:
    the lines that are looked at, from 0.

    With `repair`, a torn last line (a crash while appending) is cut off the file. Any other damage
    is a DataError with its line number, or as in `read_record`.
    """
    read = _adapter(cast(Any, shape)).validate_json if _is_record(shape) else None
    for number, line in _lines(path, repair):
        if only is not None and number - 1 not in only:
            continue
        if read is not None:  # in one step, twice as fast; what it refuses is told by the others
            try:
                record = read(line)
            except ValidationError:
                pass
            else:
                yield record
                continue
        value, fault = _parsed(line)
        if not fault:
            value, fault = _shaped(value, shape)
        if fault:
            raise DataError(f"{path}, line {number} {fault}. {remedy}")
        yield cast(Shape, value)


def read_lines(path: Path, *, repair: bool = False) -> list[dict[str, Any]]:
    """The JSON objects of a JSON-lines file, whatever their keys; see `read_rows`."""
    return read_rows(path, dict[str, Any], repair=repair)


def readable_rows(
    path: Path, shape: type[Shape], *, start: int = 0, broken: list[int] | None = None
) -> Iterator[Shape]:
    """The values of a log from this byte on, one at a time; nothing is refused.

    A log cannot be made again, so that a broken line costs no more than itself; its number goes
    into `broken`. One that is cut off at the end is passed over without a word: whoever adds the
    next line mends it.
    """
    for number, line in _lines(path, False, start):
        value, fault = _parsed(line)
        if not fault:
            value, fault = _shaped(value, shape)
        if not fault:
            yield cast(Shape, value)
        elif line.endswith(b"\n") and broken is not None:
            broken.append(number)


def require_shape(value: Any, shape: type[Shape]) -> Shape:
    """The value. Raises ValueError with what is wrong, in words."""
    read, fault = _shaped(value, shape)
    if fault:
        raise ValueError(fault)
    return cast(Shape, read)


def json_text(value: Any, **style: Any) -> str:
    """The value as JSON, each character as it is. style: as `json.dumps` has it. Raises DataError
    for a number that JSON does not have."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **style)
    except ValueError as error:
        at = next(_without_number(value, ()), None)
        if at is None:
            raise
        raise DataError(
            f"Only finite numbers can be written as JSON, but {place(at)} is none (nan or "
            "infinite). Nothing was written; whatever made it is at fault."
        ) from error


def _without_number(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Where in a value a number is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield at
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _without_number(part, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _without_number(part, (*at, number))


def cut_torn_line(path: Path) -> None:
    """Cut off a last line without its end, which a crash while appending leaves."""
    if not path.exists() or ends_whole(path):
        return
    write_lines(path, (line for _, line in _lines_of(path) if line.endswith(b"\n")))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """All lines in one file, whole or not at all; no more than one is in memory."""
    with written(path) as file:
        file.writelines(lines)


def ends_whole(path: Path) -> bool:
    """Whether the file is empty or ends with a line's end; only that is read."""
    with regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")


def _lines(path: Path, repair: bool, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each line with its end, if it has one, from this byte on; no more than it is in memory."""
    if not path.exists():
        return
    if repair:
        cut_torn_line(path)
    yield from _lines_of(verified(path), start)


def _lines_of(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    # By \n alone: what else ends a line elsewhere may stand inside a prompt.
    with regular(path) as file:
        file.seek(start)
        yield from enumerate(file, 1)


def _parsed(data: bytes) -> tuple[Any, str]:
    """(value, "") or (None, what is wrong)."""
    try:
        return json.loads(data.decode("utf-8")), ""
    except (ValueError, RecursionError):
        shown = data.decode("utf-8", "replace").rstrip("\n")
        return None, f"must be one JSON object, but is {shown!r:.80}"


def _shaped(value: Any, shape: Any) -> tuple[Any, str]:
    """The value as the shape has it: a record, or the very value. Or what is wrong."""
    is_record = _is_record(shape)
    if not isinstance(value, dict) and get_origin(shape) is not list:
        return None, f"must be one JSON object, but is {value!r:.80}"
    try:
        # Strictly, where the very value goes on: nothing is made of "1" that the shape calls int.
        read = _adapter(shape).validate_python(value, strict=None if is_record else True)
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_context=False)[0]
        where = f" at {place(mistake['loc'])}" if mistake["loc"] else ""
        came = f"{where} {quoted(mistake['input'])} came ({mistake['msg']})"
        return None, f"must have the shape of its kind, but{came}"
    except RecursionError:
        return None, "is nested too deeply"
    return (read if is_record else value), ""


def _is_record(shape: Any) -> bool:
    return isinstance(shape, type) and issubclass(shape, BaseModel)


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
