"""Text files of others, read whole and strictly: what cannot be meant is refused, with its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from selma.errors import DataError


def read_text(path: Path) -> str:
    """The whole file, without a byte order mark. Raises DataError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: text must be UTF-8, but is not.") from error


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
            raise DataError(
                f"{path} must have the columns {', '.join(columns)}, each once; "
                f"this does not hold for {', '.join(wrong)}."
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
