"""Paths as callers of the library give them: text as well as `Path`."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

AnyPath = str | PathLike[str]


def as_paths(paths: AnyPath | Iterable[AnyPath]) -> list[Path]:
    """One path or several, as a list: a text is one path, not its letters."""
    if isinstance(paths, str | PathLike):
        return [Path(paths)]
    return [Path(path) for path in paths]
