"""The run folder under every kind of damage: what is refused, what is repaired, what is kept."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from selma.applications.control.page import PAGE as CONTROL_PAGE
from selma.applications.subjects.page import NAME as SUBJECTS_PAGE
from selma.errors import DataError, WorkspaceError
from selma.finished import Finished, NotFinished
from selma.report import page
from selma.workspace import (
    IMAGES,
    Item,
    Workspace,
    append_line,
    inside,
    read_lines,
    recipe_key,
    write_bytes,
    write_json,
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
    assert {CONTROL_PAGE, SUBJECTS_PAGE} < set(page.GUESTS)
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


# The lock


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    with (
        folder.locked(),
        pytest.raises(WorkspaceError, match=f"in use by process {os.getpid()}"),
        folder.locked(),
    ):
        pass
    assert not (tmp_path / ".lock").exists()


def _dead_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@pytest.mark.parametrize("owner", ["dead", "torn", "empty", "reused"])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, owner: str) -> None:
    lock = {
        "dead": {"pid": _dead_pid(), "host": socket.gethostname(), "started": "1"},
        # The pid is alive, but belongs to a process that started at another time.
        "reused": {"pid": os.getpid(), "host": socket.gethostname(), "started": "1"},
    }
    text = json.dumps(lock[owner]) if owner in lock else {"torn": '{"pid": 1', "empty": ""}[owner]
    (tmp_path / ".lock").write_text(text)
    with Workspace(tmp_path).locked():
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_the_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    write_json(tmp_path / ".lock", {"pid": 1, "host": "elsewhere", "started": "1"})
    with pytest.raises(WorkspaceError, match="elsewhere"), Workspace(tmp_path).locked():
        pass


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
