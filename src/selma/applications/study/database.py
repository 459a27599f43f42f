"""A study's SQLite file: its path, its schema, and how it is opened."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selma.applications.study.plan import Study
from selma.errors import DataError, WorkspaceError
from selma.manifests import canonical
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.workspace import inside

FORMAT = 1
RESTORE = "Votes cannot be made again: restore the file from a copy."
SCHEMA = """
CREATE TABLE IF NOT EXISTS study (
    format INTEGER NOT NULL, key TEXT NOT NULL, plan TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS annotators (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, folded TEXT NOT NULL UNIQUE,
    secret TEXT NOT NULL UNIQUE, joined REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS showings (
    annotator INTEGER NOT NULL REFERENCES annotators, step INTEGER NOT NULL,
    pair TEXT NOT NULL, left INTEGER NOT NULL CHECK (left IN (0, 1)),
    left_token TEXT NOT NULL UNIQUE, right_token TEXT NOT NULL UNIQUE,
    PRIMARY KEY (annotator, step), UNIQUE (annotator, pair)
) STRICT;
CREATE TABLE IF NOT EXISTS votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, annotator INTEGER NOT NULL, step INTEGER NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'tie', 'right')),
    seconds REAL NOT NULL, time REAL NOT NULL, undone REAL,
    FOREIGN KEY (annotator, step) REFERENCES showings
) STRICT;
CREATE TABLE IF NOT EXISTS seals (
    vote INTEGER PRIMARY KEY REFERENCES votes, sha256 TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS door (key TEXT NOT NULL) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_vote_counts ON votes (annotator, step) WHERE undone IS NULL;
"""


def study_file(run: AnyPath, name: str) -> Path:
    """The file of a run's study of this name. Raises DataError for an invalid name."""
    run = as_path(run)
    valid = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name)
    if not valid:
        raise DataError(f"A study's name must be letters, digits, dots, _ or -, but is {name!r}.")
    return inside(run, f"study/{name}.sqlite")


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open a study's file. Raises WorkspaceError or DataError (`sqlite_errors`)."""
    mode = "rwc" if create else "rw"
    with sqlite_errors(path):
        sql = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=30,
            isolation_level=None,  # transactions are written out
            check_same_thread=False,  # a lock guards it
        )
        try:
            sql.execute("PRAGMA journal_mode = WAL")
            sql.execute("PRAGMA synchronous = FULL")  # NORMAL may lose votes with the power
            sql.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            sql.close()
            raise
    return sql


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise SQLite's errors on this file as WorkspaceError or DataError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise WorkspaceError(
            f"{path} cannot be read or written: {error}. Check space and rights, and that no other "
            "program holds it."
        ) from error
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{path} must be a study's SQLite file, but is not: {error}. "
            "Move it away to begin anew."
        ) from error


def read_study(sql: sqlite3.Connection, path: Path) -> Study:
    """Read the plan of the study in a file. Raises DataError unless it has this format."""
    rows = sql.execute("SELECT format, plan, key FROM study").fetchall()
    if len(rows) != 1 or rows[0][0] != FORMAT:
        raise DataError(
            f"{path} must hold one study in format {FORMAT}; use the selma that began it."
        )
    try:
        study = Study.model_validate_json(rows[0][1])
    except ValidationError:
        study = None
    if study is None or study.key != rows[0][2]:
        raise DataError(f"{path} is damaged: its plan is not what was written. {RESTORE}")
    return study


def read_votes(sql: sqlite3.Connection, *, vote: int | None = None) -> list[dict[str, Any]]:
    """All votes in the order of time, undone ones included, with what each was shown; or one."""
    rows = sql.execute(
        "SELECT votes.id, name AS annotator, pair, step, left, choice, seconds, votes.time, undone "
        "FROM votes LEFT JOIN showings USING (annotator, step) "
        "LEFT JOIN annotators ON annotators.id = votes.annotator "
        "WHERE ?1 IS NULL OR votes.id = ?1 ORDER BY votes.id",
        (vote,),
    )
    names = [column[0] for column in rows.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


def seal(sql: sqlite3.Connection, vote: int) -> None:
    """Write the digest of a vote as it stands: SQLite notices damage to its pages' structure, not
    to what is in them."""
    (row,) = read_votes(sql, vote=vote)
    sql.execute("INSERT OR REPLACE INTO seals VALUES (?, ?)", (vote, _digest(row)))


def seal_first(sql: sqlite3.Connection) -> None:
    """Seal the votes of a file from before there were seals."""
    if sql.execute("SELECT count(*) FROM seals").fetchone() == (0,):
        for vote in read_votes(sql):
            seal(sql, vote["id"])


def require_sealed(sql: sqlite3.Connection, votes: Sequence[dict[str, Any]], path: Path) -> None:
    """Raises DataError if a vote is not what was written; a file from before there were seals
    passes."""
    known = sql.execute("SELECT count(*) FROM sqlite_master WHERE name = 'seals'").fetchone()[0]
    seals = dict(sql.execute("SELECT vote, sha256 FROM seals")) if known else {}
    found = {vote["id"]: _digest(vote) for vote in votes} if seals else {}
    wrong = {number for number, _ in found.items() ^ seals.items()}
    wrong |= {vote["id"] for vote in votes if vote["annotator"] is None}
    if wrong:
        raise DataError(
            f"{path} is damaged: {counted(len(wrong), 'vote is', 'votes are')} not what was "
            f"written, number {min(wrong)} first. {RESTORE}"
        )


def _digest(vote: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(vote).encode()).hexdigest()
