"""The table of docs/interop.md, out of what the tests measured.

    python tests/interop/table.py ROWS docs/interop.md

ROWS is the file that the tests filled (SELMA_INTEROP_ROWS). Rows of programs that were not run stay
as they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

START, END = "<!-- measured -->", "<!-- end -->"
HEAD = ["program", "version", "compared", "largest difference", "bound"]

Row = list[str]


def measured(lines: Iterable[str]) -> list[Row]:
    """One row for each program and comparison, with the largest difference that was seen."""
    largest: dict[tuple[str, str, str, float], float] = {}
    for program, version, compared, difference, bound in map(json.loads, lines):
        key = (program, version, compared, bound)
        largest[key] = max(largest.get(key, 0.0), difference)
    return [
        [program, version, compared, f"{difference:.1e}" if difference % 1 else f"{difference:g}",
         f"{bound:g}"]
        for (program, version, compared, bound), difference in largest.items()
    ]  # fmt: skip


def table(rows: list[Row], before: list[Row]) -> list[str]:
    """The lines of the table, sorted; rows before of programs that have none now are kept."""
    programs = {row[0] for row in rows}
    everything = sorted(rows + [row for row in before if row[0] not in programs])
    return [line(HEAD), line(["---"] * len(HEAD)), *map(line, everything)]


def line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def rows_of(text: str) -> list[Row]:
    """The rows of a table in Markdown, without its head."""
    lines = [each for each in text.splitlines() if each.startswith("|")]
    return [[cell.strip() for cell in each.strip("|").split("|")] for each in lines[2:]]


def rewrite(page: Path, rows: list[Row]) -> None:
    """Put the table between the page's two marks."""
    head, _, rest = page.read_text("utf-8").partition(START)
    inside, _, tail = rest.partition(END)
    lines = table(rows, rows_of(inside))
    page.write_text("\n".join([head + START, *lines, END + tail]), "utf-8")


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        rewrite(Path(sys.argv[2]), measured(file))
