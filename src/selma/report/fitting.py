"""Tables that fit the terminal: columns are folded or split off, but no number is broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from selma.rich_screen import plain

NAME_WIDTH = 10
"""Smallest width of a column of folded names."""
_FRAME = 3
"""Width of a column besides its cells: a line and two blanks."""


@dataclass(frozen=True)
class Column:
    """A column's header, and how it is fitted into a narrow table."""

    header: str
    kind: Literal["name", "number", "ends"] = "number"
    """A name may be folded, a number may not, and the ends of an interval may move below the number
    in the column before."""


@dataclass(frozen=True)
class Row:
    """A row's cells, and how they are set off."""

    cells: Sequence[str]
    """At most as many as there are columns; missing ones are empty."""
    bold: bool = False
    rule_above: bool = field(default=False, kw_only=True)


def print_fitted(console: Console, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print a table that is no wider than the console.

    If it is too wide, the ends of intervals move below their numbers; if that is not enough,
    columns of names are folded and the last columns become a table of their own.
    """
    filled = [[*row.cells, *[""] * (len(columns) - len(row.cells))] for row in rows]
    cells = [[column.header for column in columns], *filled]
    if sum(_widths(columns, cells, folded=False)) + 1 > console.width:
        columns, cells = _ends_below(columns, cells)
    for part in _parts(columns, _widths(columns, cells, folded=True), console.width - 1):
        table = Table()
        for number in part:
            column = columns[number]
            name = column.kind == "name"
            table.add_column(
                cells[0][number],
                justify="left" if name else "right",
                overflow="fold",
                no_wrap=not name,
                min_width=min(NAME_WIDTH, _width(cells, number)) if name else None,
            )
        for row, values in zip(rows, cells[1:], strict=True):
            if row.rule_above:
                table.add_section()
            table.add_row(*(plain(values[n]) for n in part), style="bold" if row.bold else None)
        console.print(table, highlight=False)


def _ends_below(
    columns: Sequence[Column], cells: Sequence[Sequence[str]]
) -> tuple[list[Column], list[list[str]]]:
    """The columns other than ends, and the cells with ends below their numbers."""
    others = [number for number, column in enumerate(columns) if column.kind != "ends"]
    below = {number - 1 for number, column in enumerate(columns) if column.kind == "ends"}
    folded = [
        [f"{row[n]}\n{row[n + 1]}".rstrip("\n") if n in below else row[n] for n in others]
        for row in cells
    ]
    return [columns[number] for number in others], folded


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], *, folded: bool
) -> list[int]:
    """Width of each column with its frame; with `folded`, names at their narrowest."""
    widths = [_width(cells, number) for number in range(len(columns))]
    return [
        _FRAME + (min(width, NAME_WIDTH) if folded and column.kind == "name" else width)
        for column, width in zip(columns, widths, strict=True)
    ]


def _width(cells: Sequence[Sequence[str]], number: int) -> int:
    return max(cell_len(line) for row in cells for line in row[number].split("\n"))


def _parts(columns: Sequence[Column], widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """The columns of each table: the names, and as many others as fit."""
    names = [number for number, column in enumerate(columns) if column.kind == "name"]
    part, used = list(names), sum(widths[number] for number in names)
    for number in (n for n in range(len(columns)) if n not in names):
        if used + widths[number] > room and len(part) > len(names):
            yield part
            part, used = list(names), sum(widths[name] for name in names)
        part.append(number)
        used += widths[number]
    yield part
