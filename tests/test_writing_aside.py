"""Whatever lies where a file is written aside, nothing of others is written into or through."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selma.adapters.files import given, write_safetensors
from selma.disk import aside_of, folder_written, write_bytes, written
from selma.errors import WorkspaceError
from selma.workspace import write_json

WAYS: dict[str, Callable[[Path], None]] = {
    "write_bytes": lambda path: write_bytes(path, b"new"),
    "write_json": lambda path: write_json(path, {"a": 1}),
    "write_safetensors": lambda path: write_safetensors(
        path, given({"a": torch.ones(2)}), metadata={}
    ),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("planted", ["link", "hard link", "dangling link", "pipe", "file"])
def test_what_lies_aside_is_replaced_itself(
    write: Callable[[Path], None], planted: str, tmp_path: Path
) -> None:
    path, victim = tmp_path / "out" / "a.bin", tmp_path / "victim"
    path.parent.mkdir()
    path.write_bytes(b"old")
    victim.write_bytes(b"precious")
    aside = aside_of(path)
    if planted == "link":
        aside.symlink_to(victim)
    elif planted == "hard link":
        os.link(victim, aside)
    elif planted == "dangling link":
        aside.symlink_to(tmp_path / "nowhere")
    elif planted == "pipe":
        os.mkfifo(aside)  # nobody reads it: it would be waited for
    else:
        aside.write_bytes(b"left by a start that was killed" * 1000)
    thread = threading.Thread(target=write, args=(path,), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert path.read_bytes() != b"old" and not path.is_symlink()
    assert victim.read_bytes() == b"precious"
    assert names(path.parent) == ["a.bin"] and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
def test_a_folder_in_the_way_is_left_and_named(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    aside_of(path).mkdir()
    (aside_of(path) / "mine").write_bytes(b"precious")
    with pytest.raises(WorkspaceError, match=r"\.a\.bin\.partial beside it is a folder"):
        write(path)
    assert path.read_bytes() == b"old"
    assert (aside_of(path) / "mine").read_bytes() == b"precious"


def test_two_that_write_one_file_do_not_mix(tmp_path: Path) -> None:
    """Another process is in the midst of it: each writes its own, and the later one's stays."""
    path = tmp_path / "a.bin"
    code = (
        "import sys; from pathlib import Path; from selma.disk import written\n"
        "with written(Path(sys.argv[1])) as file:\n"
        "    file.write(b'theirs' * 10); file.flush(); print('begun', flush=True); input()\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "begun\n"
        write_bytes(path, b"ours")
        assert path.read_bytes() == b"ours"
        other.communicate("\n", timeout=60)
        assert other.returncode == 0
    assert path.read_bytes() == b"theirs" * 10
    assert names(tmp_path) == ["a.bin"]


def test_what_a_killed_process_left_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    code = (
        "import os, sys; from pathlib import Path; from selma.disk import written\n"
        "with written(Path(sys.argv[1])) as file:\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert names(tmp_path) == [".a.bin.partial"]
    write_bytes(path, b"new")
    assert names(tmp_path) == ["a.bin"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), written(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_a_file_that_is_taken_away_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(WorkspaceError, match="another program removed"), written(path) as file:
        file.write(b"new")
        aside_of(path).unlink()
        aside_of(path).write_bytes(b"theirs")
    assert path.read_bytes() == b"old" and aside_of(path).read_bytes() == b"theirs"


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    theirs = tmp_path / ".out.partial"
    theirs.mkdir()
    (theirs / "mine").write_bytes(b"precious")
    with pytest.raises(ZeroDivisionError), folder_written(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"half")
        raise ZeroDivisionError
    assert names(tmp_path) == [".out.partial"]
    with folder_written(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"whole")
    assert (tmp_path / "out" / "a").read_bytes() == b"whole"
    assert (theirs / "mine").read_bytes() == b"precious"
    assert names(tmp_path) == [".out.partial", "out"]
