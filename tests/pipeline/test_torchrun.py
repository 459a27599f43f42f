"""A run under torchrun, of which torchrun itself or one of two processes is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from attacks import Attack, dice

import selma
from pipeline.command import PATIENCE_S, Home, in_peace

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with in_peace(tmp_path_factory.mktemp("launched")) as one:
        yield one


def children(pid: int) -> list[int]:
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sorted({int(each) for t in tasks for each in (t / "children").read_text().split()})
    return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers(torchrun: subprocess.Popen[str]) -> list[int]:
    """The process ids of both, once they are there."""
    deadline = time.monotonic() + PATIENCE_S
    while len(pids := children(torchrun.pid)) < 2 and time.monotonic() < deadline:
        assert torchrun.poll() is None, "torchrun has ended"
        time.sleep(0.01)
    return pids


@pytest.mark.attack
@pytest.mark.parametrize("chain", range(6))
def test_whoever_is_killed_the_same_command_goes_on(home: Home, chain: int, attack: Attack) -> None:
    pick, run, count = dice("torchrun", chain), f"launched-{chain}", 4
    command = home.command(run, launcher=TORCHRUN)
    log = home.folder / f"{run}.log"
    with attack("kill -9: torchrun or a process under it", count), log.open("w+") as says:
        killed = 0
        while killed < count:
            torchrun = home.start(command, says)
            pids = workers(torchrun)
            victim = pick.choice([torchrun.pid, *pids])
            with suppress(subprocess.TimeoutExpired):
                torchrun.wait(pick.uniform(0, home.lasts_s))
            if torchrun.poll() is None and alive(victim):
                os.kill(victim, 9)
                killed += 1
            code = torchrun.wait(PATIENCE_S)
            left = wait_for(pids)
            assert left == [], f"{left} did not end after {victim} of {torchrun.pid}, {pids}"
            if code == 0:  # it was through; the next one is a new run
                assert home.differences(run) == []
                shutil.rmtree(home.folder / run)
        done = home.done(command)
        assert done.returncode == 0, done.stderr
        assert home.differences(run) == []
    said = log.read_text()
    assert str(Path(selma.__file__).parent) not in said, "a traceback of ours"


def wait_for(pids: list[int]) -> list[int]:
    """Those that do not end by themselves; they are killed."""
    deadline = time.monotonic() + PATIENCE_S
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, 9)
    return left
