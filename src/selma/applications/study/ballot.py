"""What was voted: read from a study's file for its report."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from selma.applications.study.database import connect, read_study, sqlite_errors
from selma.applications.study.plan import Study
from selma.errors import WorkspaceError
from selma.records.record import Record

Choice = Literal["left", "tie", "right"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


class Vote(Record):
    """One vote with all that is known about it."""

    annotator: str
    pair: str
    step: int
    left: int
    """Which model (0 or 1) was at left."""
    choice: Choice
    seconds: float
    """From the moment that both images were visible."""
    time: float
    """Of the vote, in seconds since 1970."""
    undone: float | None = None
    """When it was taken back; only votes with None count."""

    @property
    def outcome(self) -> Literal["win", "tie", "lose"]:
        """What it says about the second model."""
        if self.choice == "tie":
            return "tie"
        return "win" if (self.choice == "left") == (self.left == 1) else "lose"


class Ballot(NamedTuple):
    """All that a study's file holds for its report."""

    study: Study
    annotators: list[str]
    """In the order in which they joined; some may not have voted."""
    votes: list[Vote]
    """In the order in which they came, the undone ones too."""


def read_ballot(path: Path) -> Ballot:
    """What was voted so far; a server may be at work. Raises DataError for what is no study."""
    if not path.is_file():
        raise WorkspaceError(
            f"{path} must hold a study's votes, but there is no such file. "
            "Run `selma study serve RUN` first."
        )
    with closing(connect(path, create=False)) as sql, sqlite_errors(path):
        sql.execute("BEGIN")  # so that all three are of one moment
        study = read_study(sql, path)
        names = [row[0] for row in sql.execute("SELECT name FROM annotators ORDER BY id")]
        sql.row_factory = sqlite3.Row
        rows = sql.execute(
            "SELECT name AS annotator, pair, step, left, choice, seconds, votes.time, undone "
            "FROM votes JOIN showings USING (annotator, step) "
            "JOIN annotators ON annotators.id = votes.annotator ORDER BY votes.id"
        ).fetchall()
    return Ballot(study, names, [Vote.model_validate(dict(row)) for row in rows])
