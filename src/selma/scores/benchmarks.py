"""Exams: prompts with DSG questions, from toybox or from a CSV in DSG-1k's layout."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from selma.config import ScoresConfig
from selma.errors import ConfigError, DataError
from selma.records import ExamPrompt, Question, evenly

COLUMNS = (
    "item_id",
    "text",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "question_natural_language",
)
"""What is read of DSG-1k's columns; others (keywords, tuple) may be there."""

DSG_GROUPS = {
    "tifa": "tifa",
    "stanford": "paragraph",
    "localized": "paragraph",
    "countbench": "count",
    "vrd": "relation",
    "diffusiondb": "real_user",
    "midjourney": "real_user",
    "posescript": "pose",
    "whoops": "defying",
    "drawtext": "text",
}
"""Part of an item's source → the group that DSG's own table has (arXiv:2310.18235)."""

Dependencies = Literal["lenient", "whole_item", "verbatim"]
"""What a dependency cell such as "1, 3" means.

- lenient: a list of ids, blanks aside; what is no id of the item leads nowhere;
- whole_item: as DSG's released code: one cell that is not a list of numbers takes all dependencies
  from its item;
- verbatim: as SELMA's released code: nothing is stripped, so that " 3" after a comma is no id.
"""

# Ids become file names, on every system.
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")


def exam_prompts(
    config: ScoresConfig, *, split: str | None = None, prompts: int | None = None
) -> list[ExamPrompt]:
    """The prompts that models are examined on.

    `split` and `prompts` replace the config's. `prompts` takes that many evenly over the groups,
    always the same ones. Raises DataError for a file that cannot be used, and ConfigError where the
    dev split of a CSV is asked for: it has none, and nothing may be chosen on its prompts.
    """
    wanted = split or config.split
    if config.benchmark == "toybox":
        from selma.toybox.exam import exam as toybox_exam

        exam = toybox_exam("dev" if wanted == "dev" else "test")
    elif wanted == "dev":
        raise ConfigError(
            f"Only toybox has a dev split, but {config.benchmark} came. Set experts.select to last "
            "and scores.split to test."
        )
    else:
        exam = read_dsg(Path(config.benchmark))
    count = prompts or config.prompts
    return evenly(exam, count) if count else list(exam)


def read_dsg(path: Path, *, dependencies: Dependencies = "lenient") -> list[ExamPrompt]:
    """All prompts of a CSV in DSG-1k's layout, in the order of their first rows.

    A question's `parents` are what its cell says, the irregular ones too: faithfulness.py ignores
    and counts them. Raises DataError, with the line, for what has no safe meaning: missing columns
    or cells, a repeated question id, two texts for one item, an id that cannot name a file.
    """
    rows: dict[str, list[_Row]] = {}
    for row in _rows(path):
        rows.setdefault(row.item_id, []).append(row)
    if not rows:
        raise DataError(f"{path} must hold questions, but has only a header.")
    seen: dict[str, str] = {}
    for item_id, questions in rows.items():
        # On some systems A.png and a.png are one file.
        other = seen.setdefault(item_id.casefold(), item_id)
        if other != item_id:
            raise _broken(path, questions[0].line, f"item_id {item_id!r} differs from {other!r}"
                          " only in case. Rename one of them")  # fmt: skip
    return [_prompt(path, item_id, found, dependencies) for item_id, found in rows.items()]


def group_of(item_id: str) -> str:
    """DSG's group of an item such as "stanford_paragraph_54"; the source itself if DSG has none,
    "all" if the id names no source."""
    source, separator, _ = item_id.rpartition("_")
    if not separator or not source:
        return "all"
    return next((group for part, group in DSG_GROUPS.items() if part in source), source)


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
    # strict: without it the reader guesses what a stray quote means.
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in COLUMNS if header.count(name) != 1]
        if missing:
            raise DataError(
                f"{path} must have the columns {', '.join(COLUMNS)}, each once; "
                f"this does not hold for {', '.join(missing)}."
            )
        places = [header.index(name) for name in COLUMNS]
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise _broken(path, reader.line_num, f"{len(header)} cells must stand in a row, "
                              f"but {len(cells)} came")  # fmt: skip
            row = _Row(reader.line_num, *(cells[place].strip() for place in places))
            row = row._replace(dependency=cells[places[COLUMNS.index("dependency")]])
            _check(path, row)
            yield row
    except csv.Error as error:
        raise _broken(path, reader.line_num, f"it is not valid CSV: {error}") from error


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"The benchmark {path} cannot be read: {error.strerror}. "
            "scores.benchmark must be toybox or a CSV in DSG-1k's layout."
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _broken(path, line, "text must be UTF-8, but is not") from error


def _check(path: Path, row: _Row) -> None:
    named = zip(COLUMNS, row[1:], strict=True)
    empty = [
        name for name, cell in named if not cell and name not in ("dependency", "category_detailed")
    ]
    if empty:
        raise _broken(path, row.line, f"{', '.join(empty)} must not be empty")
    if not _SAFE_ID.fullmatch(row.item_id):
        raise _broken(path, row.line, "item_id must be letters, digits, dots, _ or -, at most "
                      f"151, as it names a file, but is {row.item_id[:80]!r}")  # fmt: skip
    if row.proposition_id == "0":
        raise _broken(path, row.line, "proposition_id must not be 0, which means no dependency")


def _prompt(path: Path, item_id: str, rows: list[_Row], how: Dependencies) -> ExamPrompt:
    lines: dict[str, int] = {}
    for row in rows:
        if row.text != rows[0].text:
            raise _broken(path, row.line, f"{item_id} has another text than in line {rows[0].line}")
        first = lines.setdefault(row.proposition_id, row.line)
        if first != row.line:
            raise _broken(path, row.line, f"{item_id} already has a question "
                          f"{row.proposition_id!r} in line {first}")  # fmt: skip
    return ExamPrompt(
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
            for row, parents in zip(rows, _parents([r.dependency for r in rows], how), strict=True)
        ),
    )


def _parents(cells: list[str], how: Dependencies) -> list[tuple[str, ...]]:
    """The ids in the dependency cells of one item; "0" and blanks mean none."""
    parts = [cell.split(",") for cell in cells]
    if how == "whole_item":
        try:
            parts = [[str(int(part)) for part in row] for row in parts]
        except ValueError:
            parts = [[] for _ in parts]
    elif how == "lenient":
        parts = [[part.strip() for part in row] for row in parts]
    return [tuple(part for part in row if part not in ("", "0")) for row in parts]


def _broken(path: Path, line: int, what: str) -> DataError:
    return DataError(f"{path}, line {line}: {what}.")
