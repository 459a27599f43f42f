"""The way to the disk: what the system refuses, as one error; what is flushed; what is no file."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import Attack

from selma import disk
from selma.disk import (
    append_bytes,
    aside_of,
    failures,
    impossible,
    make_folder,
    move,
    promote,
    read_regular,
    write_bytes,
)
from selma.errors import DataError, SelmaError, WorkspaceError
from selma.image_files import open_image
from selma.imagefolders import rows
from selma.manifests import file_sha256
from selma.record_files import read_lines
from selma.textfiles import read_text
from selma.workspace import inside

LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from selma.adapters.files import given, write_safetensors
from selma.disk import append_bytes, write_bytes
from selma.errors import WorkspaceError
folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for name, write in {
    "whole": lambda path: write_bytes(path, b"x" * 5000),
    "appended": lambda path: append_bytes(path, b"x" * 5000),
    "tensors": lambda path: write_safetensors(path, given({"a": torch.zeros(5000)}), metadata={}),
}.items():
    try:
        write(folder / name)
    except WorkspaceError as error:
        print(name, str(folder / name) in str(error), "MiB are free there" in str(error), error)
"""


def test_a_file_that_may_grow_no_further(tmp_path: Path) -> None:
    program = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        [name, "True", "True"] for name in ("whole", "appended", "tensors")
    ]
    assert all("ulimit -f" in line for line in lines), done.stdout
    assert not (tmp_path / "whole").exists() and not (tmp_path / "tensors").exists()


def test_a_full_disk_names_the_file_its_space_and_what_to_do(attack: Attack) -> None:
    attack.injects("full disks: one write")
    with pytest.raises(WorkspaceError, match=r"/dev/full could not be written: No space left"):
        append_bytes(Path("/dev/full"), b"x")
    attack.held("full disks: one write")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_small_disk_keeps_what_was_there(tmp_path: Path, attack: Attack) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount")
    attack.injects("full disks: one write", 6)
    try:
        path = tmp_path / "a.bin"
        write_bytes(path, b"old")
        with pytest.raises(WorkspaceError, match=r"a\.bin.*MiB are free there.*Free some space"):
            write_bytes(path, b"x" * 200_000)
        assert path.read_bytes() == b"old"
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        for change in (
            lambda: write_bytes(path, b"new"),
            lambda: append_bytes(path, b"new"),
            lambda: make_folder(tmp_path / "deep" / "er"),
            lambda: move(path, tmp_path / "b.bin"),
            lambda: promote(path, tmp_path / "b.bin"),
        ):
            with pytest.raises(WorkspaceError, match="Read-only file system"):
                change()
        attack.held("full disks: one write", 6)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


LONG = "x" * 300


@pytest.mark.parametrize(
    "act",
    [
        lambda folder: write_bytes(folder / LONG, b""),
        lambda folder: append_bytes(folder / LONG, b""),
        lambda folder: make_folder(folder / LONG),
        lambda folder: read_regular(folder / LONG),
        lambda folder: file_sha256(folder / LONG),
    ],
)
def test_a_name_too_long_is_our_error(
    tmp_path: Path, act: Callable[[Path], object], attack: Attack
) -> None:
    attack.injects("full disks: one write")
    with pytest.raises(WorkspaceError, match=r"File name too long\. Choose a shorter name"):
        act(tmp_path)
    attack.held("full disks: one write")


def test_no_more_open_files_is_our_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = max(map(int, os.listdir("/proc/self/fd"))) + 1  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (least, before[1]))
    held = []
    try:
        with pytest.raises(WorkspaceError, match=r"Too many open files.*ulimit -n"):
            for _ in range(least):
                with failures(path, task="read"):
                    held.append(os.open(path, os.O_RDONLY))
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("code", disk.ADVICE)
def test_each_refusal_says_what_helps(tmp_path: Path, code: int, attack: Attack) -> None:
    attack.injects("full disks: one write")
    with pytest.raises(WorkspaceError) as caught, failures(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'a'} could not be written: {os.strerror(code)}")
    assert disk.ADVICE[code] in text and text.endswith("nothing finished is lost.")
    attack.held("full disks: one write")


def test_other_failures_stay_what_they_are_where_advice_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ConnectionRefusedError), failures(tmp_path, advised=True):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_regular(tmp_path / "none")


# What is flushed


def test_new_folders_and_files_are_flushed_into_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    attack.injects("power cuts: new folders and files", 6)
    flushed: list[Path] = []
    plain = disk.sync_folder
    monkeypatch.setattr(disk, "sync_folder", lambda path: flushed.append(path) or plain(path))
    make_folder(tmp_path / "a" / "b")
    assert flushed == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(flushed) == 2
    append_bytes(tmp_path / "a" / "log", b"1\n")
    append_bytes(tmp_path / "a" / "log", b"2\n")
    assert flushed[2:] == [tmp_path / "a"], "of a file that is there only the bytes are new"
    move(tmp_path / "a" / "log", tmp_path / "c" / "log")
    assert flushed[3:] == [tmp_path, tmp_path / "c", tmp_path / "a"]
    attack.held("power cuts: new folders and files", len(flushed))


def test_bytes_are_flushed_before_a_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Path | str] = []
    rename = os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: done.append(Path(f"/proc/self/fd/{file}").readlink())
    )
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or rename(*names))
    path = tmp_path / "file"
    write_bytes(path, b"x")
    assert done == [aside_of(path), "renamed", tmp_path]
    aside = tmp_path / "aside"
    aside.write_bytes(b"y")
    promote(aside, path)
    assert done[3:] == [aside, "renamed", tmp_path]
    append_bytes(path, b"z")
    assert done[6:] == [path]


def test_no_folder_of_a_run_is_made_elsewhere() -> None:
    """Stages make folders by `make_folder`: a plain mkdir is not flushed."""
    root = Path(disk.__file__).parent
    parts = ("prompts", "images", "experts", "merged", "scores", "report", "workspace.py")
    files = [path for part in parts for path in [root / part, *(root / part).rglob("*.py")]]
    # The user's cache of benchmarks is no run's.
    guilty = [
        path.relative_to(root).as_posix()
        for path in files
        if path.suffix == ".py" and path.name != "fetching.py" and ".mkdir(" in path.read_text()
    ]
    assert guilty == []


# What is no file

READERS: dict[str, Callable[[Path], object]] = {
    "bytes": read_regular,
    "text": read_text,
    "lines": read_lines,
    "image": open_image,
}


def strange(path: Path, kind: str) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path.name)
        case "broken link":
            path.symlink_to("nowhere")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "broken link"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, kind: str, reader: str, attack: Attack
) -> None:
    attack.injects("odd files: in folders")
    path = tmp_path / "x.png"
    strange(path, kind)
    if reader == "lines" and kind in ("loop", "broken link"):
        assert read_lines(path) == []  # there is none
        attack.held("odd files: in folders")
        return
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it is waited for"))
    signal.alarm(20)
    try:
        with pytest.raises(SelmaError, match=r"x\.png"):
            READERS[reader](path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    attack.held("odd files: in folders")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_metadata_that_is_no_file_is_refused_at_once(
    tmp_path: Path, kind: str, attack: Attack
) -> None:
    attack.injects("odd files: in folders")
    strange(tmp_path / "metadata.jsonl", kind)
    with pytest.raises(DataError, match=r"metadata\.jsonl"):
        list(rows(tmp_path))
    attack.held("odd files: in folders")


@pytest.mark.parametrize("name", ["y" * 5000, "loop/a.png", "a\0b"])
def test_names_that_can_be_no_file_are_refused(tmp_path: Path, name: str, attack: Attack) -> None:
    attack.injects("odd files: in folders")
    strange(tmp_path / "loop", "loop")
    with pytest.raises(DataError) as caught:
        inside(tmp_path, name)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    attack.held("odd files: in folders")


@pytest.mark.parametrize(
    ("name", "why"),
    [("a\0b", "NUL"), ("y" * 5000, "too long"), ("/dev/null", "neither"), ("\ud800", "surrogate")],
)
def test_paths_by_which_there_can_be_nothing(name: str, why: str) -> None:
    assert why in impossible(name)
    assert impossible("nowhere/at all") == impossible(str(Path.cwd())) == ""
