"""Files that hold several images of one prompt as a grid, as some released programs take them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from selma.disk import make_folder
from selma.errors import ConfigError, DataError
from selma.image_files import open_image, png_bytes
from selma.workspace import write_bytes


def grid_of(text: str) -> tuple[int, int]:
    """Columns and rows of "2x2". Raises ConfigError."""
    sides = re.fullmatch(r"([1-9])x([1-9])", text)
    if sides is None:
        raise ConfigError(f"A grid must be columns x rows, such as 2x2, but {text!r} came.")
    return int(sides[1]), int(sides[2])


def cut_grids(
    files: Mapping[str, Path], folder: Path, *, columns: int, rows: int
) -> dict[str, Path]:
    """Cut each file's grid into `folder`, row by row: <id>.png, <id>-1.png and so on.

    files: prompt id → its grid. Returns image id → file, with the ids of
    `records.benchmarks.repeated`. Raises DataError for a size that the grid does not divide.
    """
    make_folder(folder)
    cells: dict[str, Path] = {}
    for id, path in files.items():
        image = open_image(path)
        width, height = image.width // columns, image.height // rows
        if (width * columns, height * rows) != image.size:
            raise DataError(
                f"{path} must be a grid of {columns} x {rows} images of one size, but has "
                f"{image.width} x {image.height} pixels, which this does not divide."
            )
        for number in range(columns * rows):
            left, top = number % columns * width, number // columns * height
            name = f"{id}-{number}" if number else id
            cells[name] = folder / f"{name}.png"
            write_bytes(cells[name], png_bytes(image.crop((left, top, left + width, top + height))))
    return cells
