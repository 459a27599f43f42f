"""Work in processes of this machine: the bytes of a run without them, whatever ends."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engines.threads import asked_by_threads
from pipeline.killing import home, settings, tree

from selma import pipeline
from selma.config import RunConfig
from selma.config.engine import LocalEngine
from selma.engines import opened
from selma.engines.engine import Worker
from selma.engines.on_processes import SERVE, OnProcesses
from selma.errors import DataError, WorkspaceError
from selma.workspace import Workspace

WORKERS = 2


@pytest.fixture(scope="module")
def engine() -> Iterator[OnProcesses]:
    with opened(LocalEngine(workers=WORKERS)) as engine:
        assert isinstance(engine, OnProcesses)
        yield engine


def times(factor: int) -> Callable[[int], tuple[int, int, int]]:
    import torch

    return lambda number: (factor * number, os.getpid(), torch.get_num_threads())


def failing(kind: str) -> Callable[[int], int]:
    def do(number: int) -> int:
        if kind == "death" and number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 2:
            raise DataError("the second is broken") if kind == "ours" else ZeroDivisionError("a")
        return number

    return do


def test_one_worker_is_this_process() -> None:
    with opened(LocalEngine()) as engine:
        assert engine is None


def test_results_come_in_order_from_several_processes(engine: OnProcesses) -> None:
    results = list(engine.map(Worker(times, (3,)), range(40)))
    assert [value for value, _, _ in results] == [3 * number for number in range(40)]
    assert {threads for _, _, threads in results} == {1}
    assert len({who for _, who, _ in results} - {os.getpid()}) == WORKERS
    assert engine.counts == {"tasks": 40, "again": 0, "lost": 0}


def test_no_more_tasks_are_taken_than_processes_can_have(engine: OnProcesses) -> None:
    taken: list[int] = []
    results = engine.map(Worker(times, (1,)), (taken.append(n) or n for n in range(1000)))  # type: ignore[func-returns-value]
    assert next(results)[0] == 0
    assert len(taken) <= 2 * WORKERS + 1
    results.close()  # type: ignore[attr-defined]


def test_several_threads_are_served_at_once(engine: OnProcesses) -> None:
    factors, numbers = (2, 3, 5), range(9)
    answers = asked_by_threads(engine, times, factors, numbers)
    assert answers == {factor: [factor * n for n in numbers] for factor in factors}


def test_what_goes_wrong_in_a_process_is_told_here(engine: OnProcesses) -> None:
    with pytest.raises(DataError, match=r"^the second is broken$"):
        list(engine.map(Worker(failing, ("ours",)), range(5)))
    with pytest.raises(ZeroDivisionError) as caught:
        list(engine.map(Worker(failing, ("theirs",)), range(5)))
    assert "in do" in caught.value.__notes__[0]  # where it was
    assert next(iter(engine.map(Worker(times, (2,)), [3])))[0] == 6


class Demanding(Exception):
    """What pickle cannot rebuild from its text."""

    def __init__(self, *, text: str) -> None:
        super().__init__(text)


def odd(kind: str) -> Callable[[int], Any]:
    def do(number: int) -> Any:
        if kind == "error":
            raise Demanding(text="demanding, but told")
        return threading.Lock() if kind == "result" else sys.exit(3)

    return do


@pytest.mark.parametrize(
    ("kind", "error", "told"),
    [
        ("error", RuntimeError, "demanding, but told"),
        ("result", TypeError, "cannot pickle '_thread.lock'"),
        ("end", WorkspaceError, "exit code 3"),
    ],
)
def test_what_cannot_be_handed_over_is_told(kind: str, error: type[Exception], told: str) -> None:
    with opened(LocalEngine(workers=WORKERS)) as engine:
        assert engine is not None
        with pytest.raises(error, match=told):
            list(engine.map(Worker(odd, (kind,)), range(5)))


SCRIPT = """
import pathlib, sys
from selma.config.engine import LocalEngine
from selma.engines import opened
from selma.engines.engine import Worker

sys.path.insert(0, pathlib.Path("not a text: imports pass it over"))
def own():
    return abs
with opened(LocalEngine(workers=2)) as engine:
    print(list(engine.map(Worker(*eval(sys.argv[1])), [-1, -2])))
"""


@pytest.mark.parametrize(
    ("worker", "told"),
    [
        ("own, ()", "Can't get attribute 'own'"),  # of a script that workers do not run
        ("__import__('operator').methodcaller, ('__abs__',)", "[1, 2]"),
    ],
)
def test_a_script_of_any_folder_has_workers(tmp_path: Path, worker: str, told: str) -> None:
    (tmp_path / "script").mkdir()
    script = tmp_path / "script" / "run.py"
    script.write_text(SCRIPT)
    for name in ("signal", "torch", "selma"):  # the folder that it is started in is none of its
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        [sys.executable, str(script), worker],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told in done.stdout + done.stderr


def test_a_closed_engine_starts_no_process() -> None:
    with opened(LocalEngine(workers=WORKERS)) as engine:
        assert isinstance(engine, OnProcesses)
    with pytest.raises(WorkspaceError, match="engine is closed"):
        engine._do(Worker(times, (1,)), 1)  # as a thread that was about to
    assert not engine._started


@contextmanager
def served() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def large(folder: str) -> Callable[[bool], bytes]:
    """Of True, more than a pipe holds; of False, what does not end."""

    def do(first: bool) -> bytes:
        while not first:
            Path(folder, "beat").touch()
            time.sleep(0.02)
        return bytes(1 << 20)

    return do


def test_a_process_at_work_ends_with_the_one_that_asked_however_early_it_did(
    tmp_path: Path,
) -> None:
    """The next task is there before the process has been on to look for it."""
    with served() as process:
        assert process.stdin is not None and process.stdout is not None
        for first in (True, False):
            pickle.dump(pickle.dumps((Worker(large, (str(tmp_path),)), first)), process.stdin)
        process.stdin.flush()
        select.select([process.stdout], [], [], 120)  # it waits for room for the first result
        time.sleep(0.2)
        assert pickle.loads(pickle.load(process.stdout)) == ("done", bytes(1 << 20))
        until((tmp_path / "beat").exists)
        process.stdin.close()
        assert process.wait(20) == 1


def test_half_a_task_is_the_end() -> None:
    with served() as process:
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(pickle.dumps((Worker(times, (1,)), 2)))[:-9])
        process.stdin.close()
        assert process.wait(60) == 0


def locking(_: str) -> Callable[[int], int]:
    """As tqdm does: what is left behind by a process that is killed is told on standard error."""
    from multiprocessing import RLock

    lock = RLock()
    return lambda number: number if lock.acquire() else -1


def test_idle_processes_end_by_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    with opened(LocalEngine(workers=WORKERS)) as engine:
        assert engine is not None
        assert list(engine.map(Worker(locking, ("",)), range(8))) == list(range(8))
    assert capfd.readouterr().err == ""


def test_a_process_that_is_gone_is_told() -> None:
    with (
        opened(LocalEngine(workers=WORKERS)) as engine,
        pytest.raises(WorkspaceError, match=r"exit code -9.*engine\.workers"),
    ):
        assert engine is not None
        list(engine.map(Worker(failing, ("death",)), range(5)))


def config(folder: Path, address: str, run: str, **engine: Any) -> RunConfig:
    raw: dict[str, Any] = settings(folder, address, run=run)
    raw["images"] |= {"choose": {"candidates": 2, "scorer": "toybox"}}
    return RunConfig.model_validate(raw | ({"engine": engine} if engine else {}))


def test_a_run_by_processes_has_the_same_bytes(tmp_path: Path) -> None:
    with home(tmp_path) as address:
        alone = config(tmp_path, address, "alone")
        pipeline.run(alone)
        shared = config(tmp_path, address, "shared", kind="local", workers=WORKERS)
        pipeline.shard(shared, "1-prompts", 0, 2)  # shards pass them over
        assert not journalled(shared)
        pipeline.run(shared)
    assert tree(Path(shared.run_folder)) == tree(Path(alone.run_folder))
    assert journalled(shared)[-1]["tasks"] > WORKERS
    with pipeline.opened(shared, make=[]) as this:  # as do commands of one process
        assert this.engine is None


def journalled(config: RunConfig) -> list[Any]:
    lines = Workspace(config.run_folder).read_journal()
    return [line for line in lines if line["stage"] == "engine"]


RUN = """
import signal, sys, time
from selma.config.engine import LocalEngine
from selma.engines import opened
from selma.engines.engine import Worker

sys.path.insert(0, sys.argv[1])
from test_on_processes import beating

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as the command `selma` does
with opened(LocalEngine(workers=2)) as engine:  # nothing keeps it from being run when imported
    list(engine.map(Worker(beating, (sys.argv[2],)), range(2)))
"""


def beating(folder: str) -> Callable[[int], None]:
    """Never ends by itself: heeds a signal as training does, and then leaves a file."""
    from selma.stopping import stopping

    def do(number: int) -> None:
        with stopping() as asked:
            while not asked:
                Path(folder, f"beat-{number}").write_text(str(time.time()))
                time.sleep(0.02)
            Path(folder, f"checkpoint-{number}").touch()

    return do


@pytest.mark.parametrize(
    ("number", "code", "checkpoints"), [(signal.SIGTERM, 143, 2), (signal.SIGKILL, -9, 0)]
)
def test_processes_end_with_the_run_that_started_them(
    tmp_path: Path, number: signal.Signals, code: int, checkpoints: int
) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    here = str(Path(__file__).parent)
    run = subprocess.Popen(
        [sys.executable, str(script), here, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path])},
    )
    beats = [tmp_path / f"beat-{n}" for n in range(2)]
    until(lambda: all(beat.exists() for beat in beats))
    run.send_signal(number)
    assert run.wait(60) == code
    assert len(list(tmp_path.glob("checkpoint-*"))) == checkpoints
    until(lambda: time.time() - max(beat.stat().st_mtime for beat in beats) > 2)


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)
