"""The run folder under every kind of damage: what is refused, what is repaired, what is kept."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
from attacks import Attack

from selma import manifests
from selma.errors import DataError, WorkspaceError
from selma.finished import Finished, NotFinished
from selma.workspace import (
    IMAGES,
    SCORES,
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


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"experts": {"rank": 4, "init": "zero"}}, "experts.rank"),
        ({"experts": {"rank": 2, "init": "zero", "alpha": 1}}, "experts.alpha"),
        ({"code": 2}, "code"),
        ({"experts": {"rank": 2, "init": "zero", "new": None}}, "experts.new"),
        ({"betas": [0.9, 0.9]}, "betas"),
        ({"versions": {"torch": "0.1"}, "seed": 2}, "seed, version of torch"),
        ({"made_of": {"spatial": "parent"}}, "parent 2-images/spatial"),
        ({"a": 1, "b": 1, "c": 1, "seed": 2}, "a, b, c, 1 more"),
    ],
)
def test_what_differs_in_a_recipe_is_named(
    tmp_path: Path, recipe: dict[str, object], words: str
) -> None:
    folder = Workspace(tmp_path)
    there = {"experts": {"rank": 2, "init": "zero"}, "seed": 1, "betas": [0.9, 0.99]}
    finished(folder, **there, made_of={"spatial": "0" * 16})
    if recipe.get("made_of"):
        recipe = {"made_of": {"spatial": folder.item(IMAGES, "spatial", recipe={"steps": 1}).key}}
    now = again(folder, **{**there, "made_of": {"spatial": "0" * 16}, **recipe})
    assert now.change == f"other {words}"
    finished(folder, **there)
    assert again(folder, **there).change == ""


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


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    path = finished(folder).path / "a.txt"
    path.write_text("onf")
    assert again(folder).faults == {"a.txt": "its sha256 is not the manifest's"}
    assert not again(folder).done


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


def test_a_damaged_file_is_put_aside_and_the_rest_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Workspace(tmp_path)
    item = again(folder)
    for name, text in (("a.txt", "one"), ("deep/b.txt", "two")):
        (item.begin() / name).parent.mkdir(exist_ok=True)
        write_bytes(item.path / name, text.encode())
    item.finish([item.path / "a.txt", item.path / "deep/b.txt"], {})
    (item.path / "deep/b.txt").write_text("tvo")
    other = again(folder)
    assert not other.done
    other.begin()
    assert "2-images/birds/deep/b.txt: its sha256 is not the manifest's" in capsys.readouterr().err
    assert (item.path / "a.txt").read_text() == "one" and not (item.path / "deep/b.txt").exists()
    aside = tmp_path / "superseded" / "2-images_birds-damaged"
    assert (aside / "deep/b.txt").read_text() == "tvo" and (aside / "manifest.json").is_file()


@pytest.mark.parametrize("small", [0, 2**20], ids=["streamed", "at once"])
def test_a_file_is_read_once_in_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    finished(Workspace(tmp_path))
    manifests.forget()
    read: list[object] = []
    streamed, at_once = manifests.file_sha256, os.read
    monkeypatch.setattr(manifests, "_SMALL", small)
    monkeypatch.setattr(manifests, "file_sha256", lambda path: read.append(path) or streamed(path))
    monkeypatch.setattr(os, "read", lambda *of: read.append(of) or at_once(*of))
    assert all(again(Workspace(tmp_path)).done for _ in range(5))
    assert len(read) == 1


def test_a_glance_looks_at_sizes_alone(tmp_path: Path) -> None:
    path = finished(Workspace(tmp_path)).path / "a.txt"
    path.write_text("onf")
    with manifests.sizes_only():
        assert again(Workspace(tmp_path)).done
    assert not again(Workspace(tmp_path)).done


def test_rows_of_a_finished_item_are_verified_by_their_path(tmp_path: Path) -> None:
    item = again(Workspace(tmp_path))
    append_line(item.begin() / "rows.jsonl", {"answer": "yes"})
    item.finish([item.path / "rows.jsonl"], {})
    assert read_lines(item.path / "rows.jsonl") == [{"answer": "yes"}]
    (item.path / "rows.jsonl").write_text('{"answer": "no "}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl is damaged: its sha256"):
        read_lines(item.path / "rows.jsonl")


def child(folder: Workspace, parent: Item) -> Item:
    return folder.item(SCORES, "answers", recipe={"images": [{"key": parent.key}]})


def finished_child(folder: Workspace, parent: Item) -> Item:
    item = child(folder, parent)
    write_bytes(item.begin() / "b.txt", b"of one")
    item.finish([item.path / "b.txt"], {})
    return item


def test_what_was_made_of_other_bytes_is_made_again(tmp_path: Path) -> None:
    """The parent is made again and comes out otherwise, as on another GPU: its key is the same."""
    folder = Workspace(tmp_path)
    made = finished_child(folder, finished(folder))
    assert json.loads((made.path / "manifest.json").read_text())["parents"].keys() == {
        "2-images/birds"
    }
    (tmp_path / "2-images/birds/a.txt").write_text("onf")  # damaged
    parent = finished(folder, "two")
    assert parent.done and not child(folder, parent).done
    finished_child(folder, parent)
    assert child(folder, parent).done
    aside = tmp_path / "superseded" / f"5-scores_answers-{made.key}"
    assert (aside / "b.txt").read_text() == "of one"


def test_a_parent_that_comes_out_the_same_changes_nothing(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    made = finished_child(folder, finished(folder))
    (tmp_path / "2-images/birds/a.txt").unlink()
    assert not again(folder).done
    assert child(folder, finished(folder)).done and made.done


def test_manifests_of_before_have_no_parents_and_hold(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    made = finished_child(folder, finished(folder))
    path = made.path / "manifest.json"
    old = json.loads(path.read_text())
    for name in ("parents", "sha256"):
        del old[name]
    path.write_text(json.dumps(old))
    assert child(folder, again(folder)).done


@pytest.mark.parametrize("change", [("bytes", 4), ("sha256", "0" * 64)])
def test_a_digit_in_a_manifest_is_noticed(tmp_path: Path, change: tuple[str, object]) -> None:
    item = finished(Workspace(tmp_path))
    path = item.path / "manifest.json"
    value = json.loads(path.read_text())
    value["files"]["a.txt"][change[0]] = change[1]
    path.write_text(json.dumps(value))
    assert again(Workspace(tmp_path)).faults == {"manifest.json": manifests.NO_MANIFEST}
    finished(Workspace(tmp_path))
    assert again(Workspace(tmp_path)).done


@pytest.mark.parametrize("part", ["key", "recipe"])
def test_a_damaged_plan_supersedes_nothing(tmp_path: Path, part: str) -> None:
    """Of what was begun and not finished: what was paid for stays."""
    item = again(Workspace(tmp_path))
    write_bytes(item.begin() / "replies.jsonl", b"{}\n")
    path = item.path / "plan.json"
    plan = json.loads(path.read_text())
    plan[part] = "0" * 16 if part == "key" else {"steps": 3}
    path.write_text(json.dumps(plan))
    assert (again(Workspace(tmp_path)).begin() / "replies.jsonl").exists()
    assert json.loads(path.read_text()) == {"key": item.key, "recipe": item.recipe}
    assert not (tmp_path / "superseded").exists()


KILLED = """
import os, sys
from pathlib import Path
from selma.workspace import Workspace
left = int(sys.argv[2])
def counted(plain):
    def call(*args, **named):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return plain(*args, **named)
    return call
os.replace, os.mkdir, os.unlink = map(counted, (os.replace, os.mkdir, os.unlink))
folder = Workspace(Path(sys.argv[1]))
item = folder.item("6-report", recipe={"steps": 2})
(item.begin(guests=("page.html", "_other")) / "index.html").write_text("2")
item.finish([item.path / "index.html"], {})
"""


@pytest.mark.parametrize("kill_at", range(12))
def test_a_kill_while_superseding_leaves_the_guests(
    tmp_path: Path, kill_at: int, attack: Attack
) -> None:
    attack.injects("kills while a report is put aside")
    first = Workspace(tmp_path).item("6-report", recipe={"steps": 1})
    (first.begin() / "index.html").write_text("1")
    first.finish([first.path / "index.html"], {})
    (first.path / "page.html").write_text("x")
    (first.path / "_other").mkdir()
    program = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run([*program, str(kill_at)], timeout=60).returncode
    assert (first.path / "page.html").read_text() == "x" and (first.path / "_other").is_dir()
    assert subprocess.run([*program, "1000"], timeout=60).returncode == 0
    assert killed in (0, 9)
    assert (first.path / "page.html").read_text() == "x" and (first.path / "_other").is_dir()
    assert (first.path / "index.html").read_text() == "2"
    old = [path.read_text() for path in (tmp_path / "superseded").rglob("index.html")]
    assert old == ["1"]
    attack.held("kills while a report is put aside")


def test_a_damaged_line_of_the_journal_costs_that_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Workspace(tmp_path)
    for number in range(3):
        folder.journal(IMAGES, event="request", cost=0.5, number=number)
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:20] + b"\xff\x00{" + lines[1][20:] + lines[2] + b'{"to')
    assert [line["number"] for line in folder.read_journal()] == [0, 2]
    said = capsys.readouterr().err
    assert "1 damaged line, line 2 first" in said and "Remove" not in said
    folder.journal(IMAGES, number=3)  # behind a line that was torn
    assert [line["number"] for line in folder.read_journal()] == [0, 2, 3]
    assert capsys.readouterr().err == "", "said once"


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
    versions = without.recipe["versions"]
    assert with_empty.key == without.key
    assert with_empty.recipe == without.recipe == {"steps": 1, "versions": versions}
    with_empty.begin()
    with_empty.finish([], {})
    for name in ("plan.json", "manifest.json"):
        written = json.loads((without.path / name).read_text())
        assert written["recipe"] == without.recipe, "what is written is what was hashed"
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
    assert item.recipe == {"b": inside, "versions": item.recipe["versions"]}
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
    tmp_path: Path, before: str, rounds: int, starters: int, attack: Attack
) -> None:
    """With a lock by a file's existence it was 82 of 800 rounds."""
    program = Path(__file__).parent / "lock_starters.py"
    attack.injects(f"starters: {starters} at once", rounds)
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(rounds), str(starters), before],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["two inside"] == counts["none inside"] == 0 and counts["errors"] == [], counts
    assert counts["refused"] > rounds / 10, "most start while another is inside"
    attack.held(f"starters: {starters} at once", rounds)


@pytest.mark.attack
@pytest.mark.parametrize("before", ["fresh", "dead"])
def test_a_thousand_pairs_of_starters(tmp_path: Path, before: str, attack: Attack) -> None:
    attack.injects("starters: 2 at once", 1000)
    program = Path(__file__).parent / "lock_starters.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), "1000", "2", before],
        capture_output=True,
        text=True,
        timeout=600,
    )
    counts = json.loads(done.stdout)
    assert counts["two inside"] == counts["none inside"] == 0 and counts["errors"] == [], counts
    attack.held("starters: 2 at once", 1000)


HOLD = """
import sys
import tracemalloc
from pathlib import Path
from selma.workspace import Workspace
with Workspace(Path(sys.argv[1])).locked():
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_a_killed_holder_leaves_no_lock(tmp_path: Path, attack: Attack) -> None:
    attack.injects("kills of a lock's holder")
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
    attack.held("kills of a lock's holder")


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
    with (
        pytest.raises(WorkspaceError, match="could not be"),
        Workspace(root).locked(),
    ):
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
    assert ("there with other steps." in str(caught.value)) == (there == "other settings")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_journal_is_read_a_line_at_a_time_and_from_where_it_was_left(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    assert folder.journal_end() == 0 and folder.spent(IMAGES) == 0
    line = json.dumps({"stage": IMAGES, "event": "request", "cost": 1, "about": "x" * 1000}) + "\n"
    (tmp_path / "journal.jsonl").write_text(line * 20_000)
    end = folder.journal_end()
    tracemalloc.start()
    assert folder.spent(IMAGES) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < end / 10
    folder.journal(IMAGES, what="rest")
    with mock.patch("json.loads", wraps=json.loads) as parsed:
        assert [line["what"] for line in folder.read_journal(start=end)] == ["rest"]
    assert parsed.call_count == 1


def test_a_folder_that_may_not_be_read_is_no_bad_name(tmp_path: Path) -> None:
    (tmp_path / "5-scores").mkdir(mode=0o000)
    is_root = os.geteuid() == 0  # whom nothing is refused
    if is_root:
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(WorkspaceError, match="Give yourself the right to read") as refused:
            inside(tmp_path, "5-scores/scorecard/plan.json")
    finally:
        if is_root:
            os.seteuid(0)
        (tmp_path / "5-scores").chmod(0o755)
    assert "5-scores" in str(refused.value)


def test_amounts_that_no_log_has_are_passed_over(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    folder.journal(IMAGES, event="request", cost=0.5)
    with open(tmp_path / "journal.jsonl", "a") as file:
        for cost in ("1e999", "NaN", "-3", '"NaN"'):
            file.write(f'{{"stage": "{IMAGES}", "event": "request", "cost": {cost}}}\n')
    assert folder.spent(IMAGES) == 0.5


@pytest.mark.parametrize("count", [0, 1, 7, 25])
@pytest.mark.parametrize("parents", [{}, {"1-prompts/coco": "0"}])
def test_manifests_in_parts_are_those_of_one_text(tmp_path, monkeypatch, count, parents) -> None:
    monkeypatch.setattr(manifests, "_PART", 7)
    files = {
        f'{n % 3}/"files": {{}} é{n}.png': {"bytes": n, "sha256": str(n)} for n in range(count)
    }
    recipe = {"files": {}, "nested": [1, {"z": 'a "files": {}'}]}
    manifest = {"key": "k", "recipe": recipe, "files": files, "summary": {"files": count}}
    manifest |= {"parents": parents} if parents else {}
    manifests.write_manifest(tmp_path, manifest)
    digest = hashlib.sha256(manifests.canonical(manifest).encode()).hexdigest()
    write_json(tmp_path / "whole.json", {**manifest, "sha256": digest})
    written = (tmp_path / "manifest.json").read_bytes()
    assert written == (tmp_path / "whole.json").read_bytes()
    assert manifests.read_manifest(tmp_path) == json.loads(written)
    whole = hashlib.sha256(manifests.canonical({"files": files}).encode()).hexdigest()
    assert manifests.contents_digest(manifest) == whole


def test_a_manifest_of_very_many_files_is_written_in_parts(tmp_path) -> None:
    files = {f"{n:032x}.png": {"bytes": n, "sha256": f"{n:064x}"} for n in range(100_000)}
    manifest = {"key": "k", "recipe": {}, "files": files, "summary": {}}
    tracemalloc.start()
    manifests.write_manifest(tmp_path, manifest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "manifest.json").stat().st_size > 14e6
    assert peak < 12e6


def test_what_was_paid_for_in_a_folder_of_an_item_is_taken_along(tmp_path) -> None:
    def item(version: str) -> Item:
        recipe = {"a": 1, "versions": {"server": version}}
        paid = ["train/3f/a.png", "train/b.png"]
        return Workspace(tmp_path).item("2-images", "coco", recipe=recipe, paid=paid)

    path = item("1").begin()
    (path / "train" / "3f").mkdir(parents=True)
    for name in ("train/3f/a.png", "train/b.png", "notes.json"):
        (path / name).write_bytes(name.encode())
    upgraded = item("2")
    upgraded.begin()
    assert (path / "train/3f/a.png").read_bytes() == b"train/3f/a.png"
    assert (path / "train/b.png").read_bytes() == b"train/b.png"
    assert not (path / "notes.json").exists()
    (aside,) = (tmp_path / "superseded").iterdir()
    assert (aside / "train/3f/a.png").is_file() and (aside / "notes.json").is_file()
