"""Tables of kinds: one row for each, by name, and rows that other packages add.

A thing that comes in kinds (base families, adapters, objectives, merge methods, benchmarks, judges,
scorers, language models, applications) is one `Table`. Another package adds a row by an entry point
of the table's group, which names a row or an iterable of rows:

    [project.entry-points."selma.merge_methods"]
    mine = "my_package:METHOD"

An entry point that cannot be used is left out: it is said once on standard error, and again by the
error about a name that is in no table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar

from selma.errors import ConfigError
from selma.processes import launched
from selma.texts import legible, quoted


class Named(Protocol):
    """A row of a table."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)

_registered: dict[str, dict[str, Any]] = {}


class NoRow(ConfigError, KeyError):
    """No row of a table has this name."""

    __str__ = Exception.__str__  # a KeyError would quote it


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
        added = self._added()
        if name not in added:
            rows = f"must be a {self.what} ({', '.join(self)}), but {name!r} came."
            raise NoRow(" ".join([rows, *left_out(self.group)]))
        return added[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._rows, *self._added()]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def find(self, name: str, *, setting: str) -> Row:
        """The row of this name. Raises ConfigError that names the setting and all rows."""
        try:
            return self[name]
        except NoRow as error:
            raise ConfigError(f"{setting}: {error}") from None

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Leave a row of another package out if the block fails; of our own rows errors are
        raised."""
        try:
            yield
        except Exception as error:  # another package's code may fail in any way
            if name in self._rows:
                raise
            _leave_out(self.group, name, f"{type(error).__name__}: {error}")

    def _added(self) -> dict[str, Row]:
        kinds = {type(row) for row in self._rows.values()}
        for name, row in [*_outside(self.group).rows.items()]:
            if name in self._rows:
                _leave_out(self.group, name, f"selma itself has a {self.what} named {name!r}")
            elif kinds and not isinstance(row, tuple(kinds)):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                _leave_out(
                    self.group, name, f"it must be a {wanted}, but is a {type(row).__name__}"
                )
        return added_rows(self.group)


def added_rows(group: str) -> dict[str, Any]:
    """Name → row, of all rows that other packages add to this group."""
    return {**_outside(group).rows, **_registered.get(group, {})}


def left_out(group: str) -> Sequence[str]:
    """A sentence for each entry point of this group that cannot be used."""
    return _outside(group).mistakes


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


@dataclass
class _Outside:
    """What the entry points of one group bring."""

    rows: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """Row → its entry point, in words."""
    mistakes: list[str] = field(default_factory=list)

    def refuse(self, origin: str, why: str) -> None:
        self.mistakes.append(
            f"{origin} is left out: {why}. Mend or remove the package that declares it."
        )
        if launched()[0] == 0:
            print(legible(f"Warning: {self.mistakes[-1]}"), file=sys.stderr)


def _leave_out(group: str, name: str, why: str) -> None:
    outside = _outside(group)
    outside.rows.pop(name, None)
    outside.refuse(outside.origins.get(name, f"The row {name!r} of {group}"), why)


@cache
def _outside(group: str) -> _Outside:
    outside = _Outside()
    for point in entry_points(group=group):
        origin = f"The entry point {point.name!r} of {group} ({point.value})"
        try:
            rows = _rows_of(point.load())
        except ConfigError as error:
            outside.refuse(origin, str(error))
            continue
        except Exception as error:  # another package's code may fail in any way
            outside.refuse(origin, f"it cannot be loaded: {type(error).__name__}: {error}")
            continue
        for row in rows:
            if row.name not in outside.origins:
                outside.rows[row.name], outside.origins[row.name] = row, origin
                continue
            outside.rows.pop(row.name, None)
            first = outside.origins[row.name]
            outside.refuse(
                origin,
                f"{first[0].lower()}{first[1:]} has a row {row.name!r} as well, so that neither "
                "counts",
            )
    return outside


def _rows_of(loaded: Any) -> list[Any]:
    """Raises ConfigError."""
    rows = [loaded] if hasattr(loaded, "name") or not isinstance(loaded, Iterable) else [*loaded]
    for row in rows:
        if not isinstance(getattr(row, "name", None), str):
            raise ConfigError(f"it must be rows, each with a name, but has {quoted(row)}")
    return rows
