"""A study's votes, read from its file for the report."""

from __future__ import annotations

from contextlib import closing
from typing import Literal, NamedTuple, get_args

from selma.applications.study.database import (
    connect,
    read_study,
    read_votes,
    require_sealed,
    sqlite_errors,
)
from selma.applications.study.plan import Study
from selma.errors import WorkspaceError
from selma.paths import AnyPath, as_path
from selma.records.record import Record

Choice = Literal["left", "tie", "right"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


class Vote(Record):
    """One annotator's vote on one pair."""

    annotator: str
    pair: str
    step: int
    left: int
    """Which model (0 or 1) was on the left."""
    choice: Choice
    seconds: float
    """Since both images were visible."""
    time: float
    """When it was cast, in seconds since 1970."""
    undone: float | None = None
    """When it was undone; only votes with None count."""

    @property
    def outcome(self) -> Literal["win", "tie", "lose"]:
        """The second model's."""
        if self.choice == "tie":
            return "tie"
        return "win" if (self.choice == "left") == (self.left == 1) else "lose"


class Ballot(NamedTuple):
    """A study with its annotators and votes."""

    study: Study
    annotators: list[str]
    """In the order of joining; some may not have voted."""
    votes: list[Vote]
    """In order of time, undone ones included."""


def read_ballot(path: AnyPath) -> Ballot:
    """Read the votes so far, even while the study is served. Raises WorkspaceError for a missing
    file, DataError for one that is no study, or damaged."""
    path = as_path(path)
    if not path.is_file():
        raise WorkspaceError(
            f"{path} must hold a study's votes, but there is no such file. "
            "Run `selma study serve RUN` first."
        )
    with closing(connect(path, create=False)) as sql, sqlite_errors(path):
        sql.execute("BEGIN")  # so that all three reads see the same state
        study = read_study(sql, path)
        names = [row[0] for row in sql.execute("SELECT name FROM annotators ORDER BY id")]
        rows = read_votes(sql)
        require_sealed(sql, rows, path)
    votes = [{name: value for name, value in row.items() if name != "id"} for row in rows]
    return Ballot(study, names, [Vote.model_validate(vote) for vote in votes])
