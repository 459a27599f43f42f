"""Votes: each counts once, none is lost, none is mixed with another study's."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selma.applications.study.ballot import CHOICES, read_ballot
from selma.applications.study.database import study_file
from selma.applications.study.plan import Pair, Study
from selma.applications.study.store import Store, clean_name
from selma.errors import DataError, SelmaError, WorkspaceError


def some_study(pairs: int = 6, seed: int = 0, text: str = "text") -> Study:
    planned = (
        Pair(id=f"p{i}", text=f"{text} {i}", group=f"g{i % 2}", sha256=("a", "b"))
        for i in range(pairs)
    )
    return Study(models=("base", "merged"), seed=seed, pairs=tuple(planned))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "study" / "votes.sqlite", some_study())
    yield store
    store.close()


def counting(path: Path) -> list[tuple[str, int, str]]:
    votes = read_ballot(path).votes
    return [(vote.annotator, vote.step, vote.choice) for vote in votes if vote.undone is None]


@pytest.mark.parametrize("seed", range(4))
def test_the_votes_that_count_equal_a_plain_list_of_them(tmp_path: Path, seed: int) -> None:
    """Random votes, also for wrong steps, twice and from two windows, undos of any vote, closing
    and opening: always equal to a plain list for each annotator."""
    path, stream = tmp_path / "votes.sqlite", random.Random(seed)
    store = Store(path, some_study())
    secrets = {name: store.join(name).secret for name in ("Ada", "Ben")}
    expected: dict[str, list[tuple[int, str]]] = {name: [] for name in secrets}
    for _ in range(150):
        name = stream.choice(list(secrets))
        own, secret = expected[name], secrets[name]
        if stream.random() < 0.7:
            step, choice = stream.randint(-1, 7), stream.choice(CHOICES)
            due = step == len(own) < 6
            assert store.vote(secret, step, choice, seconds=1.0) is due
            if due:
                own.append((step, choice))
        elif stream.random() < 0.9:
            status = store.status(secret)
            assert status is not None
            last, wrong = status.last_vote, stream.randint(0, 60)
            vote = last if last is not None and stream.random() < 0.7 else wrong
            assert store.undo(secret, vote) is (vote == last)
            if vote == last:
                own.pop()
        else:
            store.close()
            store = Store(path, some_study())
        status = store.status(secret)
        assert status is not None and status.annotator.done == len(own)
        assert (status.current is None) == (len(own) == 6)
        assert (status.last_vote is None) == (not own)
    store.close()
    for name, own in expected.items():
        assert [(step, choice) for n, step, choice in counting(path) if n == name] == own


def test_one_vote_counts_of_many_at_once(store: Store) -> None:
    secret = store.join("Ada").secret
    other = Store(store.path, store.study)  # as another process would
    with ThreadPoolExecutor(12) as many:
        votes = [
            many.submit((store, other)[i % 2].vote, secret, 0, CHOICES[i % 3], seconds=0.5)
            for i in range(24)
        ]
        assert sum(vote.result() for vote in votes) == 1
        undos = [many.submit((store, other)[i % 2].undo, secret, 1) for i in range(24)]
        assert sum(undo.result() for undo in undos) == 1
    other.close()
    assert counting(store.path) == []
    assert len(read_ballot(store.path).votes) == 1  # kept, and marked


def test_the_file_itself_refuses_a_second_vote(store: Store) -> None:
    secret = store.join("Ada").secret
    assert store.vote(secret, 0, "tie", seconds=1)
    with sqlite3.connect(store.path) as sql, pytest.raises(sqlite3.IntegrityError):
        sql.execute(
            "INSERT INTO votes (annotator, step, choice, seconds, time) VALUES (1, 0, 'left', 1, 1)"
        )
    sql.close()


def test_a_vote_is_on_disk_when_it_is_acknowledged(store: Store) -> None:
    """The settings by which SQLite promises it: an fsync of the log at each commit."""
    assert store._open.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._open.execute("PRAGMA synchronous").fetchone() == (2,)


def test_annotators_share_nothing(store: Store) -> None:
    ada, ben = store.join("Ada"), store.join("Ben")
    store.vote(ada.secret, 0, "left", seconds=1)
    status = store.status(ben.secret)
    assert status is not None and status.annotator.done == 0 and status.last_vote is None
    assert not store.undo(ben.secret, 1)  # Ada's
    tokens = set()
    for annotator in (ada, ben):
        for step in range(6):
            shown = store._shown(store._open, annotator.secret, step)
            assert shown is not None
            tokens |= {shown.left, shown.right}
    assert len(tokens) == 24


def test_both_images_of_a_pair_are_shown_each_at_its_side(store: Store) -> None:
    secret = store.join("Ada").secret
    pairs = set()
    for step in range(6):
        status = store.status(secret)
        assert status is not None and status.current is not None
        left, right = store.image(status.current.left), store.image(status.current.right)
        assert left is not None and right is not None
        assert left[0] == right[0] and {left[1], right[1]} == {0, 1}
        store.vote(secret, step, "left", seconds=1)
        vote = read_ballot(store.path).votes[-1]
        assert (vote.pair, vote.left) == left
        assert vote.outcome == ("win" if left[1] == 1 else "lose")
        pairs.add(left[0])
    assert len(pairs) == 6
    assert store.image("nothing") is None


def test_a_name_is_known_whatever_its_case_and_blanks(store: Store) -> None:
    ada = store.join("  Ada   Lovelace ")
    assert ada.name == "Ada Lovelace"
    assert store.join("ADA lovelace") == ada == store.find("ada LOVELACE")
    assert store.find("Ben") is None and store.annotators() == 1


@pytest.mark.parametrize(
    "name", ["", " \t", "x" * 61, "=cmd()", "+1", "@a", "-1", "a\0b", "a\u202eb", "<b>"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="begin with a letter or a digit"):
        clean_name(name)


@pytest.mark.parametrize("name", ["Ada", "李雷", "Åsa Öberg", "7", "O'Neill", "Ana-María"])
def test_names_of_all_scripts_are_taken(name: str) -> None:
    assert clean_name(name) == name


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (some_study(seed=1), "seed 0, now 1"),
        (some_study(5), "prompts 6, now 5"),
        (some_study(text="changed"), "of other images or prompts"),
        (
            some_study().model_copy(update={"models": ("merged", "base")}),
            "merged against base, now",
        ),
    ],
)
def test_another_study_is_never_mixed_in(store: Store, other: Study, message: str) -> None:
    with pytest.raises(WorkspaceError, match=message):
        Store(store.path, other)
    assert read_ballot(store.path).study == some_study()


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with pytest.raises(WorkspaceError, match="selma study serve"):
        read_ballot(path)
    path.write_bytes(b"this is no database, however long it may be" * 99)
    for refused in (lambda: Store(path, some_study()), lambda: read_ballot(path)):
        with pytest.raises(DataError, match="must be a study's SQLite file"):
            refused()
    with pytest.raises(DataError, match="study's name"):
        study_file(tmp_path, "../outside")


def test_an_empty_file_left_by_a_crash_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    path.touch()
    Store(path, some_study()).close()
    assert read_ballot(path).votes == []


# Damage


@pytest.fixture
def voted(tmp_path: Path) -> Path:
    """A study's file with three votes, the last of them undone."""
    path = tmp_path / "votes.sqlite"
    store = Store(path, some_study())
    ada = store.join("ada")
    for step, choice in enumerate(("left", "tie", "right")):
        assert store.vote(ada.secret, step, choice, seconds=1.5)
    status = store.status(ada.secret)
    assert status is not None and status.last_vote is not None
    assert store.undo(ada.secret, status.last_vote)
    store.close()
    assert [vote.choice for vote in read_ballot(path).votes] == ["left", "tie", "right"]
    return path


def change(path: Path, statement: str) -> None:
    sql = sqlite3.connect(path)
    sql.execute(statement)
    sql.commit()
    sql.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE votes SET choice = 'right' WHERE id = 1",
        "UPDATE votes SET seconds = 1.25 WHERE id = 2",
        "UPDATE votes SET undone = NULL WHERE id = 3",
        "UPDATE showings SET left = 1 - left WHERE step = 0",
        "UPDATE annotators SET name = 'adb'",
        "UPDATE votes SET annotator = 7 WHERE id = 1",
        "DELETE FROM votes WHERE id = 3",
        "DELETE FROM seals WHERE vote = 2",
        "UPDATE study SET plan = replace(plan, 'text', 'test')",
    ],
)
def test_what_is_not_what_was_written_is_refused(voted: Path, statement: str) -> None:
    change(voted, statement)
    with pytest.raises(DataError, match=r"votes\.sqlite is damaged.*restore the file"):
        read_ballot(voted)


def test_a_flipped_bit_changes_no_vote(voted: Path) -> None:
    """It is refused, or lies where nothing is read, as in free space."""
    whole, told = voted.read_bytes(), read_ballot(voted)
    pick, refused = random.Random(5), 0
    for _ in range(200):
        data = bytearray(whole)
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
        voted.write_bytes(data)
        try:
            assert read_ballot(voted) == told
        except SelmaError:
            refused += 1
    assert refused


def test_votes_from_before_there_were_seals_count(voted: Path) -> None:
    change(voted, "DROP TABLE seals")
    assert len(read_ballot(voted).votes) == 3
    store = Store(voted, some_study())
    ada = store.find("ada")
    assert ada is not None and store.vote(ada.secret, 2, "tie", seconds=1.0)
    store.close()
    assert len(read_ballot(voted).votes) == 4
    change(voted, "UPDATE votes SET choice = 'left' WHERE id = 4")
    with pytest.raises(DataError, match="1 vote is not what was written, number 4 first"):
        read_ballot(voted)


def test_a_vote_of_before_there_were_seals_can_be_undone(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    store = Store(path, some_study())
    ada, ben = store.join("ada"), store.join("ben")
    for annotator in (ada, ben):
        assert store.vote(annotator.secret, 0, "left", seconds=1.0)
    store.close()
    change(path, "DROP TABLE seals")
    store = Store(path, some_study())
    assert store.undo(ada.secret, 1)
    store.close()
    assert [vote.undone is None for vote in read_ballot(path).votes] == [False, True]
