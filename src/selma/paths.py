"""Paths as callers of the library give them: text as well as `Path`."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from selma.errors import ConfigError

AnyPath = str | PathLike[str]


def require_path(path: Any) -> AnyPath:
    """The path. Raises ConfigError unless it is text or a `Path`; "" would be the folder in which
    the command happens to run."""
    if path == "":
        raise ConfigError('A path must name a file or folder, but "" came; name "." for this one.')
    if not isinstance(path, str | PathLike):
        raise ConfigError(f"A path must be text or a Path, but {path!r} came.")
    return path


def as_path(path: AnyPath) -> Path:
    """The path as `Path`. Raises ConfigError unless it is one."""
    return Path(require_path(path))


def as_paths(paths: AnyPath | Iterable[AnyPath]) -> list[Path]:
    """One path or several, as a list: a text is one path, not its letters. Raises ConfigError
    unless each is one."""
    if isinstance(paths, str | PathLike) or not isinstance(paths, Iterable):
        return [as_path(paths)]
    return [as_path(path) for path in paths]
