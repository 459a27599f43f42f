"""The command stopped by signals and on disks that are full: what it says and returns, and what it
makes when it goes on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from attacks import Attack, dice, numbers

from pipeline.command import Home, in_peace
from pipeline.killing import finished

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = "Stopped. What is finished is kept: the same command goes on from here."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with in_peace(tmp_path_factory.mktemp("commanded")) as one:
        yield one


def sentences(said: str) -> list[str]:
    """What a command says at its end, without its stages' progress."""
    assert "Traceback" not in said, said
    return [line for line in said.splitlines() if line.startswith(("Stopped", "Error"))]


def caught(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for this signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def begun(process: subprocess.Popen[str]) -> None:
    """Returns when the first line of ours has run: until then, Ctrl-C is Python's own matter."""
    pythons = False
    with suppress(OSError, StopIteration):  # it has ended
        while process.poll() is None and not caught(process, signal.SIGTERM):
            if pythons and not caught(process, signal.SIGINT):
                return
            pythons = pythons or caught(process, signal.SIGINT)
            time.sleep(0.001)


@pytest.mark.parametrize("chain", numbers(1, 21))
def test_a_signal_at_any_moment_stops_it_in_one_sentence(
    home: Home, chain: int, attack: Attack
) -> None:
    pick, run, count = dice("signals", chain), f"signals-{chain}", 5 if chain else 2
    command, root = home.command(run), home.folder / run
    with attack("signals: a run", count):
        stopped = 0
        while stopped < count:
            before = finished(root)
            process, number = home.start(command), pick.choice(SIGNALS)
            begun(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(pick.uniform(0, home.lasts_s))
            process.send_signal(number)
            _, said = process.communicate(timeout=120)
            after = finished(root)
            assert {path: after.get(path) for path in before} == before
            if process.returncode == 0:  # it was through
                assert sentences(said) == [] and home.differences(run) == []
                shutil.rmtree(root)
                continue
            stopped += 1
            if process.returncode == -number:  # amid the first imports
                assert said == ""
            else:
                assert process.returncode == 128 + number, said
                assert sentences(said) == [STOPPED], said
        done = home.done(command)
        assert done.returncode == 0 and sentences(done.stderr) == [], done.stderr
        assert home.differences(run) == []
    shutil.rmtree(root)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int | None], None]]:
    """A disk of its own at the folder; yields what gives it so many KiB, or plenty."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount")

    def resize(kib: int | None) -> None:
        size = "size=64m" if kib is None else f"size={kib}k"
        subprocess.run(["mount", "-o", f"remount,{size}", str(folder)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def files(root: Path) -> list[os.stat_result]:
    return [path.stat() for path in root.rglob("*") if path.is_file()]


@pytest.mark.attack
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("chain", range(3))
def test_a_full_disk_is_told_of_and_loses_nothing(home: Home, chain: int, attack: Attack) -> None:
    pick, run, count = dice("disks", chain), f"disk-{chain}", 8
    command, root = home.command(run), home.folder / run
    needed = sum(file.st_blocks for file in files(home.folder / "peace")) // 2
    with small_disk(root) as resize, attack("full disks: a small one", count):
        for kib in sorted(pick.sample(range(4, int(0.8 * needed), 4), count)):
            resize(kib)
            refused(home, command, run, "No space left on device", "Free some space there")
        resize(None)
        assert home.done(command).returncode == 0 and home.differences(run) == []


@pytest.mark.attack
@pytest.mark.parametrize("chain", range(3))
def test_a_file_that_may_not_grow_is_told_of_and_loses_nothing(
    home: Home, chain: int, attack: Attack
) -> None:
    pick, run, count = dice("limits", chain), f"limited-{chain}", 8
    command = home.command(run)
    largest = max(file.st_size for file in files(home.folder / "peace"))
    with attack("full disks: files of limited size", count):
        for size in sorted(pick.sample(range(largest), count)):
            limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
            advice = "Raise the limit on a file's size"
            refused(home, command, run, "File too large", advice, preexec_fn=limit)
        assert home.done(command).returncode == 0 and home.differences(run) == []


def refused(
    home: Home, command: list[str], run: str, reason: str, advice: str, **how: object
) -> None:
    """The command ends in one sentence that names what could not be written, and what helps."""
    root = home.folder / run
    before = finished(root)
    done = home.done(command, **how)
    (error,) = sentences(done.stderr)
    assert done.returncode == 5, done.stderr
    assert str(root) in error and reason in error and advice in error
    assert "MiB are free there" in error and "nothing finished is lost" in error
    after = finished(root)
    assert {path: after.get(path) for path in before} == before
