"""Where an item's images lie: in its folder, or, of very many, in sub-folders of it.

<item>/0a1b....png        up to 8,000 images: file systems and programs are slow with more
<item>/3f/0a1b....png     sub-folders by the first hex digits of the sha256 of the file's name
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from selma.disk import is_regular, make_folder
from selma.workspace import inside, insider

FLAT = 8_000
"""Images that lie in the item's own folder at most."""
_EACH = 4_000
"""In a sub-folder at most, on average."""
_MOST_DIGITS = 4


def places(folder: Path, names: Iterable[str]) -> list[Path]:
    """Where the images of these names are, or are to be written, of an item that has no others.

    One that lies in the folder itself already stays there, as smaller items and earlier versions
    have them. Raises DataError for a name that leads out of the folder.
    """
    every, path_of = list(names), insider(folder)
    digits = _digits(len(every))
    return [
        flat if not digits or is_regular(flat) else path_of(_below(name, digits))
        for name, flat in zip(every, map(path_of, every), strict=True)
    ]


def possible_places(names: Iterable[str]) -> list[str]:
    """All that `places` may name below the folder."""
    every = list(names)
    digits = _digits(len(every))
    return every + ([_below(name, digits) for name in every] if digits else [])


def image_place(folder: Path, name: str) -> Path:
    """Where the image of this name is; in the folder itself if it is nowhere. Raises DataError for
    a name that leads out of the folder."""
    flat = inside(folder, name)
    if is_regular(flat):
        return flat
    below = (inside(folder, _below(name, digits)) for digits in range(1, _MOST_DIGITS + 1))
    return next((path for path in below if is_regular(path)), flat)


def image_of(folder: Path, id: str) -> Path:
    """Where a prompt's image is, <id>.png; see `image_place`."""
    return image_place(folder, f"{id}.png")


def make_folders(paths: Iterable[Path]) -> None:
    """Make the folders of these files."""
    for folder in dict.fromkeys(path.parent for path in paths):
        make_folder(folder)


def _digits(count: int) -> int:
    if count <= FLAT:
        return 0
    return next((d for d in range(1, _MOST_DIGITS) if count <= _EACH * 16**d), _MOST_DIGITS)


def _below(name: str, digits: int) -> str:
    return f"{hashlib.sha256(name.encode()).hexdigest()[:digits]}/{name}"
