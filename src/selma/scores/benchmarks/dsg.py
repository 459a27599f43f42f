"""DSG-1k (arXiv:2310.18235), and any CSV of yes/no questions in its layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.scores import measures
from selma.scores.benchmarks.digests import digests, prompt_digest
from selma.scores.benchmarks.layouts import (
    Benchmark,
    RemoteFile,
    Rules,
    clashing_ids,
    columns,
    group_of,
    in_folder,
    unsafe_id,
)
from selma.textfiles import csv_rows

FILE = "dsg-1k-anns.csv"

COLUMNS = (
    "item_id",
    "text",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "question_natural_language",
)
"""The columns of DSG-1k that are read; others (keywords, tuple) are ignored."""

Dependencies = Literal["lenient", "whole_item", "verbatim"]
"""What a dependency cell such as "1, 3" means.

- lenient: a list of ids, blanks ignored; what is no id of the item is an invalid reference;
- whole_item: DSG's released code: one cell that is not a list of numbers, as an empty one and "1,",
  removes all dependencies of its item;
- verbatim: SELMA's released code: nothing is stripped, so that " 3" after a comma is no id.
"""


def read_dsg(path: Path, *, dependencies: Dependencies = "lenient") -> list[BenchmarkPrompt]:
    """Read all prompts of a CSV in DSG-1k's layout, in the order of their first rows.

    path: the file, or the folder that `selma data fetch dsg-1k` made. A question's `parents` are
    its cell's references, invalid ones included: faithfulness.py ignores and counts them. Raises
    DataError, with the line, for an ambiguous file: missing columns or cells, a repeated question
    id, two texts for one item, an id that cannot name a file.
    """
    path = in_folder(path, FILE)
    rows: dict[str, list[_Row]] = {}
    for row in _rows(path):
        rows.setdefault(row.item_id, []).append(row)
    if not rows:
        raise DataError(f"{path} must hold questions, but has only a header.")
    clash = clashing_ids(rows)
    if clash:
        raise _broken(path, rows[clash[1]][0].line, f"item_id {clash[1]!r} differs from "
                      f"{clash[0]!r} only in case. Rename one of them")  # fmt: skip
    return [_prompt(path, item_id, of_item, dependencies) for item_id, of_item in rows.items()]


class _Row(NamedTuple):
    line: int
    item_id: str
    text: str
    proposition_id: str
    dependency: str
    category: str
    detail: str
    question: str


def _rows(path: Path) -> Iterator[_Row]:
    for line, cells in csv_rows(path, COLUMNS):
        row = _Row(line, *(cells[name].strip() for name in COLUMNS))
        row = row._replace(dependency=cells["dependency"])
        _check(path, row)
        yield row


def _check(path: Path, row: _Row) -> None:
    named = zip(COLUMNS, row[1:], strict=True)
    empty = [
        name for name, cell in named if not cell and name not in ("dependency", "category_detailed")
    ]
    if empty:
        raise _broken(path, row.line, f"{', '.join(empty)} must not be empty")
    unsafe = unsafe_id(row.item_id)
    if unsafe:
        raise _broken(path, row.line, f"item_id {unsafe}")
    if row.proposition_id == "0":
        raise _broken(path, row.line, "proposition_id must not be 0, which means no dependency")


def _prompt(
    path: Path, item_id: str, rows: list[_Row], dependencies: Dependencies
) -> BenchmarkPrompt:
    lines: dict[str, int] = {}
    for row in rows:
        if row.text != rows[0].text:
            raise _broken(path, row.line, f"{item_id} has another text than in line {rows[0].line}")
        first = lines.setdefault(row.proposition_id, row.line)
        if first != row.line:
            raise _broken(path, row.line, f"{item_id} already has a question "
                          f"{row.proposition_id!r} in line {first}")  # fmt: skip
    parents_of = _parents([row.dependency for row in rows], dependencies)
    _check_spelling(path, rows, parents_of)
    return BenchmarkPrompt(
        id=item_id,
        text=rows[0].text,
        group=group_of(item_id),
        questions=tuple(
            Question(
                id=row.proposition_id,
                text=row.question,
                category=row.category,
                detail="" if row.detail == "-" else row.detail,
                parents=parents,
            )
            for row, parents in zip(rows, parents_of, strict=True)
        ),
    )


def _check_spelling(path: Path, rows: list[_Row], parents_of: list[tuple[str, ...]]) -> None:
    """Raise DataError where a table of floats has spelled one id in two ways: "1.0" and "1"."""
    ids = {row.proposition_id for row in rows}
    for row, parents in zip(rows, parents_of, strict=True):
        for parent in parents:
            other = parent.removesuffix(".0") if parent.endswith(".0") else f"{parent}.0"
            if parent not in ids and other in ids:
                raise _broken(path, row.line, f"{row.item_id} depends on question {parent!r}, but "
                              f"it has {other!r}. Spell the numbers alike")  # fmt: skip


def _parents(cells: list[str], dependencies: Dependencies) -> list[tuple[str, ...]]:
    """The ids in the dependency cells of one item; "0" and blanks mean none."""
    parts = [cell.split(",") for cell in cells]
    if dependencies == "whole_item":
        try:
            parts = [[str(int(part)) for part in row] for row in parts]
        except ValueError:
            parts = [[] for _ in parts]
    elif dependencies == "lenient":
        parts = [[part.strip() for part in row] for row in parts]
    return [tuple(part for part in row if part not in ("", "0")) for row in parts]


def _broken(path: Path, line: int, what: str) -> DataError:
    return DataError(f"{path}, line {line}: {what}.")


def has_layout(path: Path) -> bool:
    """Whether a file has columns of DSG-1k's that no other layout has."""
    distinctive = {"proposition_id", "dependency", "question_natural_language"}
    return bool(distinctive & set(columns(path)))


def _published(prompt: BenchmarkPrompt) -> bool:
    """Whether a prompt of DSG-1k has its published questions and dependencies."""
    return prompt_digest(prompt) in digests("dsg-1k")


DSG = Benchmark(
    name="dsg-1k",
    layout="a CSV of yes/no questions in DSG-1k's layout",
    measure=measures.DSG,
    released=Rules(
        replace(
            measures.DSG, about=measures.DSG.about.model_copy(update={"label": "DSG, released"})
        ),
        zeroing="one_level",
        reading="exact",
        read=partial(read_dsg, dependencies="whole_item"),
        about="Only the exact text yes counts, a no takes the points of its direct children alone, "
        "and one broken cell takes away all dependencies of its prompt.",
    ),
    recognises=lambda path: has_layout(in_folder(path, FILE)),
    read=read_dsg,
    published=_published,
    files=(
        RemoteFile(
            FILE,
            "https://raw.githubusercontent.com/j-min/DSG/"
            "3f844c1dadd141e5c7b3e9d68f3889208c9b6248/dsg-1k-anns.csv",
            sha256="b7ce06ea8a0478ccfd8fba105ecd26d7d301eb99d5c412987546c4cc8e08917a",
            max_bytes=8_000_000,
        ),
    ),
    source="arXiv:2310.18235; github.com/j-min/DSG",
    licence="Apache-2.0",
    known="On DSG's own answers about SD 2.1's images mPLUG-large gives 81.5 by SELMA's rule, "
    "where the paper has 70.3 for SD v2: which images or mPLUG it had is not known.",
)
