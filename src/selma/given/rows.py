"""Rows of a file → each skill's, by the column that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.errors import DataError
from selma.texts import quoted

Row = Mapping[str, Any]


def by_skill(
    rows: Sequence[Row], skills: Sequence[str], *, column: str, path: Path
) -> dict[str, list[Row]]:
    """Skill → its rows, in order. Rows of other skills are left out; without the column in any row,
    all belong to the only skill. Raises DataError."""
    named = [row for row in rows if isinstance(row.get(column), str)]
    if not named:
        if len(skills) != 1:
            raise DataError(
                f"{path} must say which of {', '.join(skills)} each row belongs to, but no row has "
                f"a column {column!r}. Add it, name another, or have a file or folder for each "
                "skill, of its name."
            )
        return {skills[0]: list(rows)}
    if len(named) != len(rows):
        row = next(row for row in rows if not isinstance(row.get(column), str))
        raise DataError(
            f"{path}: each row needs a skill in the column {column!r}, but "
            f"{quoted(dict(row), 120)} has none."
        )
    of_skills: dict[str, list[Row]] = {skill: [] for skill in skills}
    for row in rows:
        of_skills.get(str(row[column]).strip(), []).append(row)
    return of_skills


def require_rows(count: int, skill: str, path: Path) -> None:
    """Raise DataError if a skill has nothing."""
    if not count:
        raise DataError(f"{path} must have something for the skill {skill!r}, but has nothing.")


def digest(values: Iterable[Any]) -> str:
    """64 hex digits that change with any of the values, JSON."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()
