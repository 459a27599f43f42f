"""Votes in one SQLite file: each is on disk before its annotator sees the next pair.

An annotator's order is stored when they join, so that no later version can change it. Votes are
never deleted, undone ones included; those that count are always the first `done` steps.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from selma.applications.study.ballot import Choice
from selma.applications.study.database import (
    FORMAT,
    SCHEMA,
    connect,
    read_study,
    seal,
    seal_first,
    sqlite_errors,
)
from selma.applications.study.plan import Study, showings
from selma.errors import DataError, WorkspaceError

NAME_LENGTH = 60


class Annotator(NamedTuple):
    """Someone who votes; `secret` is the part of their address that nobody else knows."""

    name: str
    secret: str
    done: int
    total: int


class ShownPair(NamedTuple):
    """A pair as its annotator sees it."""

    step: int
    text: str
    left: str
    right: str
    """The images' tokens: random, and different for each annotator."""


class AnnotatorStatus(NamedTuple):
    """An annotator's progress."""

    annotator: Annotator
    current: ShownPair | None
    """None when all is done."""
    following: ShownPair | None
    last_vote: int | None
    """The vote that `undo` would take back."""


class Store:
    """One study's file; threads may share a store, and each process may open its own."""

    def __init__(self, path: Path, study: Study) -> None:
        """Begin or resume the study. Raises WorkspaceError if the file holds another one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.study = path, study
        self._pairs = {pair.id: pair for pair in study.pairs}
        self._lock = Lock()
        self._open = connect(path, create=True)
        try:
            with self._transaction() as sql:
                for statement in SCHEMA.split(";"):
                    sql.execute(statement)
                if sql.execute("SELECT count(*) FROM study").fetchone() == (0,):
                    row = (FORMAT, study.key, study.model_dump_json())
                    sql.execute("INSERT INTO study VALUES (?, ?, ?)", row)
                _refuse_another(read_study(sql, path), study, path)
                seal_first(sql)
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._open.close()

    def key(self) -> str:
        """What addresses begin with where others can reach the page; the same when it is served
        again, so that annotators' addresses stay good."""
        with self._transaction() as sql:
            known = sql.execute("SELECT key FROM door").fetchone()
            key = known[0] if known else secrets.token_urlsafe(16)
            if known is None:
                sql.execute("INSERT INTO door VALUES (?)", (key,))
            return str(key)

    def find(self, name: str) -> Annotator | None:
        """The annotator of this name, whatever its case; None if nobody has joined by it."""
        with self._transaction() as sql:
            return self._annotator(sql, "folded", clean_name(name).casefold())

    def join(self, name: str, *, new: bool = False) -> Annotator:
        """The annotator of this name; a new one gets their own order and addresses.

        Raises DataError for an invalid name, and with `new` for one that somebody has.
        """
        name = clean_name(name)
        folded = name.casefold()
        with self._transaction() as sql:
            if known := self._annotator(sql, "folded", folded):
                if new:
                    raise DataError("Someone of this name takes part already.")
                return known
            row = (name, folded, secrets.token_urlsafe(16), time.time())
            inserted = sql.execute(
                "INSERT INTO annotators (name, folded, secret, joined) VALUES (?, ?, ?, ?)", row
            )
            sql.executemany(
                "INSERT INTO showings VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (inserted.lastrowid, step, pair.id, left, _token(), _token())
                    for step, (pair, left) in enumerate(showings(self.study, folded))
                ],
            )
            joined = self._annotator(sql, "folded", folded)
        assert joined is not None
        return joined

    def annotators(self) -> int:
        """The number of annotators."""
        with self._transaction() as sql:
            return int(sql.execute("SELECT count(*) FROM annotators").fetchone()[0])

    def status(self, secret: str) -> AnnotatorStatus | None:
        """The progress of the annotator with this secret; None if there is none."""
        with self._transaction() as sql:
            annotator = self._annotator(sql, "secret", secret)
            if annotator is None:
                return None
            last = sql.execute(
                "SELECT max(votes.id) FROM votes JOIN annotators ON annotators.id = annotator "
                "WHERE secret = ? AND undone IS NULL",
                (secret,),
            ).fetchone()[0]
            return AnnotatorStatus(
                annotator,
                self._shown(sql, secret, annotator.done),
                self._shown(sql, secret, annotator.done + 1),
                last,
            )

    def vote(self, secret: str, step: int, choice: Choice, *, seconds: float) -> bool:
        """Record a vote; returns whether it counts. Only one for the annotator's current step does,
        so that a repeated one (a double click, a second window, a resent request) counts once."""
        with self._transaction() as sql:
            annotator = self._annotator(sql, "secret", secret)
            if annotator is None or step != annotator.done or step >= annotator.total:
                return False
            cast = sql.execute(
                "INSERT INTO votes (annotator, step, choice, seconds, time) "
                "SELECT id, ?, ?, ?, ? FROM annotators WHERE secret = ?",
                (step, choice, seconds, time.time(), secret),
            )
            assert cast.lastrowid is not None
            seal(sql, cast.lastrowid)
            return True

    def undo(self, secret: str, vote: int) -> bool:
        """Undo a vote; returns whether it was undone. Only the annotator's last one can be, so that
        a resent request undoes one vote."""
        with self._transaction() as sql:
            update = sql.execute(
                "UPDATE votes SET undone = ? WHERE id = ? AND undone IS NULL AND id = ("
                "SELECT max(votes.id) FROM votes JOIN annotators ON annotators.id = annotator "
                "WHERE secret = ? AND undone IS NULL)",
                (time.time(), vote, secret),
            )
            undone = update.rowcount == 1
            if undone:
                seal(sql, vote)
            return undone

    def image(self, token: str) -> tuple[str, int] | None:
        """Prompt and model (0 or 1) of the image with this token; None for an unknown one."""
        with self._transaction() as sql:
            row = sql.execute(
                "SELECT pair, left, left_token = ? FROM showings "
                "WHERE left_token = ? OR right_token = ?",
                (token, token, token),
            ).fetchone()
        if row is None:
            return None
        pair, left, at_left = row
        return pair, left if at_left else 1 - left

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk before the block is left."""
        with self._lock, sqlite_errors(self.path):
            self._open.execute("BEGIN IMMEDIATE")
            try:
                yield self._open
                self._open.execute("COMMIT")
            except BaseException:
                if self._open.in_transaction:  # a full disk may have ended it already
                    self._open.execute("ROLLBACK")
                raise

    def _annotator(self, sql: sqlite3.Connection, by: str, value: str) -> Annotator | None:
        row = sql.execute(
            "SELECT name, secret, (SELECT count(*) FROM votes "
            "WHERE annotator = annotators.id AND undone IS NULL) "
            f"FROM annotators WHERE {by} = ?",  # `by` is ours, never a request's
            (value,),
        ).fetchone()
        return Annotator(row[0], row[1], row[2], len(self._pairs)) if row else None

    def _shown(self, sql: sqlite3.Connection, secret: str, step: int) -> ShownPair | None:
        row = sql.execute(
            "SELECT pair, left_token, right_token FROM showings "
            "JOIN annotators ON annotators.id = annotator WHERE secret = ? AND step = ?",
            (secret, step),
        ).fetchone()
        return ShownPair(step, self._pairs[row[0]].text, row[1], row[2]) if row else None


def clean_name(name: str) -> str:
    """Normalise a name: single blanks, one Unicode form. Raises DataError for an invalid one."""
    name = " ".join(unicodedata.normalize("NFKC", name).split())
    # A letter or digit first: an exported "=..." would be run as a formula by spreadsheets.
    if not name or len(name) > NAME_LENGTH or not name.isprintable() or not name[0].isalnum():
        raise DataError(
            f"A name must have 1 to {NAME_LENGTH} characters and begin with a letter or a digit."
        )
    return name


def _token() -> str:
    return secrets.token_urlsafe(12)


def _refuse_another(stored: Study, wanted: Study, path: Path) -> None:
    if stored.key == wanted.key:
        return
    parts: dict[str, tuple[Any, Any]] = {
        "models": (" against ".join(stored.models[::-1]), " against ".join(wanted.models[::-1])),
        "seed": (stored.seed, wanted.seed),
        "prompts": (len(stored.pairs), len(wanted.pairs)),
    }
    changed = [f"{name} {a}, now {b}" for name, (a, b) in parts.items() if a != b]
    raise WorkspaceError(
        f"{path} holds another study ({'; '.join(changed) or 'of other images or prompts'}), and "
        "votes of two studies are never mixed. Serve it as it was, or begin another with --name."
    )
