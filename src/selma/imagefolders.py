"""Imagefolders as `datasets` has them: images, and a file of rows that names each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selma.disk import is_regular
from selma.errors import DataError
from selma.ids import nearest
from selma.textfiles import csv_rows, json_rows
from selma.texts import printable, quoted
from selma.workspace import read_lines

METADATA = "metadata.jsonl"
METADATA_CSV = "metadata.csv"
"""What others may have in its place."""
TEXTS = (".json", ".jsonl", ".csv", ".txt")
"""Files of texts, by their names' ends: what changes in them need not change their size."""


def rows(
    folder: Path, needs: Sequence[str] = ("file_name", "text"), *, own: bool = False
) -> Iterator[dict[str, Any]]:
    """The metadata's rows, each with a text under these keys. What a CSV leaves empty is not in its
    row.

    own: it is selma's own file, which is made again when it is removed; nobody else's is.
    """
    path = metadata(folder)
    if path.name == METADATA_CSV:
        cells = (row for _, row in csv_rows(path, needs))
        records = [{key: text for key, text in row.items() if text} for row in cells]
    else:
        records = read_lines(path) if own else json_rows(path)
    if not records:
        raise DataError(f"{path} must have one row for each image, but is empty or not there.")
    for number, row in enumerate(records, 1):
        for key in needs:
            if not isinstance(row.get(key), str) or not printable(row[key]).strip():
                raise DataError(
                    f"{path}, line {number} needs a text {key!r}, but has {quoted(row.get(key))}."
                )
        texts = {key: printable(row[key]) for key in needs if key != "file_name"}
        yield row | texts | _names_file(folder, row)


def _names_file(folder: Path, row: dict[str, Any]) -> dict[str, str]:
    """The row's file name, without blanks around it unless a file has them."""
    name = row.get("file_name")
    if not isinstance(name, str) or is_regular(folder / name):
        return {}
    return {"file_name": name.strip()}


def metadata(folder: Path) -> Path:
    """The file of rows: METADATA, or METADATA_CSV where only that is there."""
    plain, table = folder / METADATA, folder / METADATA_CSV
    return table if table.is_file() and not plain.exists() else plain


def there(image: Path) -> None:
    """Raises DataError if an image that a row names is no file."""
    if is_regular(image):
        return
    if os.path.lexists(image):
        raise DataError(f"{image} must be an image file, but is none: a folder, a pipe or a link.")
    siblings = [path.name for path in image.parent.iterdir()] if image.parent.is_dir() else []
    meant = nearest(image.name, siblings)
    raise DataError(
        f"{image} is named in the metadata, but is not there. "
        + ("Restore it." if meant is None else f"Did you mean {meant!r}?")
    )
