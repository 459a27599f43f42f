"""Packages that a row of a table needs beside selma."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec


def missing_package(package: str | None, install: str | None, key: str) -> Iterator[str]:
    """A sentence about the setting at `key`, if its package is not installed.

    package: the name that is imported; None needs none.  install: what pip installs it by, if that
    is another name.
    """
    if package is not None and find_spec(package) is None:
        yield f"{key}: needs the package {package}: pip install '{install or package}'."
