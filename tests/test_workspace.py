"""The run folder under every kind of damage: what is refused, what is repaired, what is kept."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from selma.errors import DataError, WorkspaceError
from selma.finished import Finished, NotFinished
from selma.workspace import (
    IMAGES,
    Item,
    Workspace,
    append_line,
    inside,
    read_lines,
    recipe_key,
    write_bytes,
)


def finished(folder: Workspace, text: str = "one", **recipe: object) -> Item:
    item = folder.item(IMAGES, "birds", recipe=recipe or {"steps": 1})
    path = item.begin() / "a.txt"
    write_bytes(path, text.encode())
    item.finish([path], {"files": 1})
    return item


def again(folder: Workspace, **recipe: object) -> Item:
    return folder.item(IMAGES, "birds", recipe=recipe or {"steps": 1})


def test_an_item_is_done_only_after_finish(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    item = again(folder)
    assert not item.done
    item.begin()
    assert not again(folder).done
    finished(folder)
    assert again(folder).done and again(folder).summary == {"files": 1}


def test_equal_recipes_leave_equal_bytes(tmp_path: Path) -> None:
    one, other = (finished(Workspace(tmp_path / name)).path for name in "ab")
    for name in ("plan.json", "manifest.json", "a.txt"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_another_recipe_moves_the_old_result_aside(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    old = finished(folder, "one")
    assert not again(folder, steps=2).done
    finished(folder, "two", steps=2)
    kept = tmp_path / "superseded" / f"2-images_birds-{old.key}"
    assert (kept / "a.txt").read_text() == "one"
    assert again(folder, steps=2).done and not again(folder).done


def test_guests_stay_where_they_are(tmp_path: Path) -> None:
    """Another flow's page and item in the folder, before there is anything else and afterwards."""
    folder, guests = Workspace(tmp_path), ("page.html", "_other")
    place = tmp_path / "6-report"
    (place / "_other").mkdir(parents=True)
    (place / "_other" / "manifest.json").write_text("{}")
    (place / "page.html").write_text("x")
    for steps in (1, 2):
        item = folder.item("6-report", recipe={"steps": steps})
        (item.begin(guests=guests) / "index.html").write_text(str(steps))
        item.finish([item.path / "index.html"], {})
    assert item.done and (place / "page.html").read_text() == "x"
    assert (place / "_other" / "manifest.json").is_file()
    moved = [path.relative_to(tmp_path / "superseded") for path in tmp_path.rglob("*.html")
             if "superseded" in path.parts]  # fmt: skip
    assert [path.name for path in moved] == ["index.html"]


def test_superseding_twice_loses_neither(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    for text, steps in (("one", 1), ("two", 2), ("three", 1), ("four", 2)):
        finished(folder, text, steps=steps)
    kept = {path.read_text() for path in (tmp_path / "superseded").rglob("a.txt")}
    assert kept == {"one", "two", "three"}


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"key": "0123456789abcdef", "files": {}}',
        b"\xff\xfe",
    ],
)
def test_a_foreign_or_broken_manifest_is_not_done(tmp_path: Path, manifest: bytes) -> None:
    folder = Workspace(tmp_path)
    (finished(folder).path / "manifest.json").write_bytes(manifest)
    assert not again(folder).done


@pytest.mark.parametrize("damage", ["shorter", "longer", "missing"])
def test_a_file_of_another_size_is_not_done(tmp_path: Path, damage: str) -> None:
    folder = Workspace(tmp_path)
    path = finished(folder).path / "a.txt"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("on" if damage == "shorter" else "ones")
    assert not again(folder).done


def test_a_changed_byte_is_found_by_verify(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    item = finished(folder)
    item.verify()
    (item.path / "a.txt").write_text("onf")
    with pytest.raises(WorkspaceError, match=r"a\.txt is damaged"):
        again(folder).verify()


def test_what_was_begun_is_filled_further(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    item = again(folder)
    write_bytes(item.begin() / "a.txt", b"half")
    assert (again(folder).begin() / "a.txt").read_bytes() == b"half"


@pytest.mark.parametrize("left", ["nothing", "half a plan"])
def test_a_kill_before_the_plan_leaves_nothing_behind(tmp_path: Path, left: str) -> None:
    folder = Workspace(tmp_path)
    item = again(folder)
    item.path.mkdir(parents=True)
    if left == "half a plan":
        (item.path / ".plan.json.partial").write_text('{"key": ')
    finished(folder)
    assert not (tmp_path / "superseded").exists()
    assert {path.name for path in item.path.iterdir()} == {"plan.json", "manifest.json", "a.txt"}


def test_summary_of_an_unfinished_item_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="not finished"):
        _ = again(Workspace(tmp_path)).summary


# Lines


@pytest.mark.parametrize("torn", [b'{"n": 2', b"{", b'{"n": 2}', '{"n": "é'.encode()[:-1]])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"n": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert read_lines(path, repair=True) == [{"n": 1}]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", [b"", b"[1]", b"7", b"{", b"\x00", b'{"a": }', b"[" * 100_000])
def test_damage_before_the_end_names_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
    with pytest.raises(DataError, match="line 2 must be one JSON object"):
        read_lines(path, repair=True)


def test_line_separators_inside_a_text_split_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"text": "a\u2028b\x85c\rd"})
    assert read_lines(path) == [{"text": "a\u2028b\x85c\rd"}]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == []


# Paths


@pytest.mark.parametrize(
    "name",
    ["..", "../a", "a/../../b", "/etc/passwd", "link/a", "C:\\a", "c:a", "a\0b", "", "  "],
)
def test_no_name_leads_out_of_the_root(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError):
        inside(root, name)


def test_items_cannot_leave_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leads out"):
        Workspace(tmp_path / "run").item(IMAGES, "../../else", recipe={})


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")
    (tmp_path / ".a.txt.partial").mkdir()  # nothing can be written aside
    with pytest.raises(WorkspaceError, match="could not be written"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


# Keys


def test_keys_depend_on_content_not_order() -> None:
    assert recipe_key({"a": 1, "b": [2]}) == recipe_key({"b": [2], "a": 1})
    assert recipe_key({"a": 1}) != recipe_key({"a": 2})


EMPTY: tuple[object, ...] = (None, [], (), {})


@pytest.mark.parametrize("empty", EMPTY)
def test_empty_entries_do_not_change_a_key(tmp_path: Path, empty: object) -> None:
    assert recipe_key({"a": 1, "b": empty}) == recipe_key({"a": 1})
    folder = Workspace(tmp_path)
    with_empty, without = (
        folder.item(IMAGES, "birds", recipe=recipe)
        for recipe in ({"steps": 1, "choose": empty}, {"steps": 1})
    )
    assert with_empty.key == without.key and with_empty.recipe == without.recipe == {"steps": 1}
    with_empty.begin()
    with_empty.finish([], {})
    for name in ("plan.json", "manifest.json"):
        written = json.loads((without.path / name).read_text())
        assert written["recipe"] == {"steps": 1}, "what is written is what was hashed"
        assert recipe_key(written["recipe"]) == written["key"] == without.key
    assert again(folder, steps=1, choose=empty).done


@pytest.mark.parametrize(
    "value", [False, 0, 0.0, "", [None], [[]], [{}], {"a": None}, {"a": []}, " ", "null"]
)
def test_every_other_value_changes_a_key(value: object) -> None:
    keys = {recipe_key({"a": 1, "b": value}), recipe_key({"a": 1})}
    assert len(keys) == 2
    assert recipe_key({"a": 1, "b": value}) != recipe_key({"a": 1, "c": value})


@pytest.mark.parametrize("inside", [{"a": None}, {"a": []}, [None], [[], 1]])
def test_nothing_inside_an_entry_is_left_out(tmp_path: Path, inside: object) -> None:
    item = again(Workspace(tmp_path), b=inside)
    assert item.recipe == {"b": inside}
    assert item.key != again(Workspace(tmp_path), b={} if isinstance(inside, dict) else []).key


# The lock


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    with (
        folder.locked(),
        pytest.raises(WorkspaceError, match=f"in use by process {os.getpid()}"),
        folder.locked(),
    ):
        pass
    with folder.locked():
        pass


@pytest.mark.parametrize("before", ["fresh", "dead"])
@pytest.mark.parametrize(("rounds", "starters"), [(200, 2), (40, 8)])
def test_of_many_starters_never_two_are_inside(
    tmp_path: Path, before: str, rounds: int, starters: int
) -> None:
    """With a lock by a file's existence it was 82 of 800 rounds."""
    program = Path(__file__).parent / "lock_starters.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(rounds), str(starters), before],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["two inside"] == counts["none inside"] == 0 and counts["errors"] == [], counts
    assert counts["refused"] > rounds / 10, "most start while another is inside"


HOLD = """
import sys
from pathlib import Path
from selma.workspace import Workspace
with Workspace(Path(sys.argv[1])).locked():
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "inside\n"
        match = f"in use by process {holder.pid} on {socket.gethostname()}"
        with pytest.raises(WorkspaceError, match=match), Workspace(tmp_path).locked():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with Workspace(tmp_path).locked():
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


TOGETHER = """
import os, sys
from pathlib import Path
from selma import processes
from selma.errors import WorkspaceError
from selma.workspace import Workspace
folder = Workspace(Path(sys.argv[1]))
with processes.together(), folder.locked():
    holder = processes.gathered(os.getpid())[0]
    with processes.alone():
        try:
            with folder.locked():
                print("entered twice")
        except WorkspaceError as error:
            print(f"in use by process {holder} " in str(error))
    processes.wait()
"""


def test_launched_processes_share_the_main_ones_lock(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | launcher | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    assert [process.communicate(timeout=120)[0] for process in started] == ["True\n"] * 2
    assert [process.returncode for process in started] == [0, 0]
    with Workspace(tmp_path).locked():
        pass


@pytest.mark.parametrize(
    "text",
    ["", '{"pid": 1', "[]", "\0", '{"pid": "x", "host": 1}', '{"pid": 1, "host": "elsewhere"}'],
)
def test_what_an_earlier_process_wrote_holds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock").write_text(text)
    with Workspace(tmp_path).locked():
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        (tmp_path / ".lock").write_text(text)  # an owner that has not signed yet
        with pytest.raises(WorkspaceError, match="in use by"), Workspace(tmp_path).locked():
            pass


@pytest.mark.parametrize("code", ["ENOSYS", "EOPNOTSUPP", "ENOLCK"])
def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(WorkspaceError, match=r"file system with file locks, but .*\.lock could not"),
        Workspace(tmp_path).locked(),
    ):
        raise AssertionError("entered")


@pytest.mark.parametrize("obstacle", ["folder", "link", "file in place of the run folder"])
def test_what_cannot_be_a_lock_is_refused_and_stays(tmp_path: Path, obstacle: str) -> None:
    root, foreign = tmp_path / "run", tmp_path / "foreign"
    foreign.write_text("precious")
    if obstacle == "file in place of the run folder":
        root.write_text("precious")
    else:
        root.mkdir()
    if obstacle == "folder":
        (root / ".lock").mkdir()
    if obstacle == "link":
        (root / ".lock").symlink_to(foreign)
    with pytest.raises(WorkspaceError, match="could not be locked"), Workspace(root).locked():
        raise AssertionError("entered")
    assert foreign.read_text() == "precious" and not (root.is_file() and not root.read_text())


# A folder in which nothing may be made


def test_finished_shows_what_is_done(tmp_path: Path) -> None:
    finished(Workspace(tmp_path))
    assert again(Finished(tmp_path)).done


@pytest.mark.parametrize("there", ["nothing", "begun", "other settings"])
def test_finished_makes_nothing(tmp_path: Path, there: str) -> None:
    if there == "begun":
        again(Workspace(tmp_path)).begin()
    if there == "other settings":
        finished(Workspace(tmp_path), steps=2)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NotFinished, match="selma images CONFIG") as caught:
        _ = again(Finished(tmp_path)).done
    assert ("other settings" in str(caught.value)) == (there == "other settings")
    assert sorted(tmp_path.rglob("*")) == before
