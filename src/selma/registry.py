"""Tables of kinds: one row for each, by name, and rows that other packages add.

A thing that comes in kinds (base families, adapters, objectives, merge methods, benchmarks, judges,
scorers, language models, applications) is one `Table`. Another package adds a row by an entry point
of the table's group, which names a row or an iterable of rows:

    [project.entry-points."selma.merge_methods"]
    mine = "my_package:METHOD"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar

from selma.errors import ConfigError


class Named(Protocol):
    """A row of a table."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)

_registered: dict[str, dict[str, Any]] = {}


class Table(Mapping[str, Row], Generic[Row]):
    """The rows of one kind of thing by name, in their order; those of other packages come last.

    what: the kind of thing, for messages ("merge method").  group: the entry points' group.
    """

    def __init__(self, what: str, group: str, rows: Iterable[Row]) -> None:
        self.what = what
        self.group = group
        self._rows: dict[str, Row] = {}
        for row in rows:
            if row.name in self._rows:
                raise ValueError(f"two rows of {group} are named {row.name!r}")
            self._rows[row.name] = row

    def __getitem__(self, name: str) -> Row:
        if name in self._rows:
            return self._rows[name]
        return added_rows(self.group)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._rows, *added_rows(self.group)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def find(self, name: str, *, setting: str) -> Row:
        """The row of this name. Raises ConfigError that names the setting and all rows."""
        try:
            return self[name]
        except KeyError:
            raise ConfigError(
                f"{setting}: must be a {self.what} ({', '.join(self)}), but {name!r} came."
            ) from None


def added_rows(group: str) -> dict[str, Any]:
    """Name → row, of all rows that other packages add to this group.

    Raises ConfigError if an entry point cannot be loaded or is no row.
    """
    return {**_from_entry_points(group), **_registered.get(group, {})}


@contextmanager
def registered(group: str, row: Named) -> Iterator[None]:
    """While the block runs, the group's table has this row, too."""
    rows = _registered.setdefault(group, {})
    if row.name in rows:
        raise ValueError(f"two rows of {group} are named {row.name!r}")
    rows[row.name] = row
    try:
        yield
    finally:
        del rows[row.name]


@cache
def _from_entry_points(group: str) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for point in entry_points(group=group):
        try:
            loaded = point.load()
        except Exception as error:  # another package's code may fail in any way
            raise ConfigError(
                f"The entry point {point.name!r} of {group} ({point.value}) cannot be loaded: "
                f"{error}. Mend or remove the package that declares it."
            ) from error
        for row in [loaded] if hasattr(loaded, "name") else loaded:
            rows[row.name] = row
    return rows
