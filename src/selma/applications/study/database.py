"""A study's SQLite file: its path, its schema, and how it is opened."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selma.applications.study.plan import Study
from selma.errors import DataError, WorkspaceError
from selma.paths import AnyPath, as_path
from selma.workspace import inside

FORMAT = 1
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
    rows = sql.execute("SELECT format, plan FROM study").fetchall()
    if len(rows) != 1 or rows[0][0] != FORMAT:
        raise DataError(
            f"{path} must hold one study in format {FORMAT}; use the selma that began it."
        )
    return Study.model_validate_json(rows[0][1])
