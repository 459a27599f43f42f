"""Work in processes of this machine of one thread each: a host in each, handed a task at a time."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from selma import progress
from selma.config.engine import LocalEngine
from selma.engines.engine import Worker, in_order
from selma.engines.hosting import Host, result_of
from selma.errors import WorkspaceError

RAISED = "raised"
STOP_S = 60
"""How long a process may take to end before it is killed: one that trains goes on to the end of its
step, and writes a checkpoint."""


@contextmanager
def opened(settings: LocalEngine) -> Iterator[OnProcesses]:
    """The engine while the block runs."""
    engine = OnProcesses(settings.workers)
    try:
        yield engine
    finally:
        engine.close()


class OnProcesses:
    """Hands tasks to processes, each of which is started when a task first needs it."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._tasks = 0
        self._started: list[_Process] = []
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(workers, "selma-worker")
        """One for each process, which waits for it."""

    @property
    def workers(self) -> int:
        return self._workers

    @property
    def counts(self) -> Mapping[str, int]:
        return {"tasks": self._tasks, "again": 0, "lost": 0}

    def map(self, worker: Worker, tasks: Iterable[Any]) -> Iterator[Any]:
        def ask(task: Any) -> Future[Any]:
            self._tasks += 1
            return self._threads.submit(self._do, worker, task)

        outcomes = in_order(tasks, ask, most=lambda: 2 * self._workers + 1)
        with closing(outcomes):
            yield from map(result_of, outcomes)

    def close(self) -> None:
        """End the processes, also those that are at work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            process.ask_to_end()
        for process in self._started:
            process.end()
        self._threads.shutdown()

    def _do(self, worker: Worker, task: Any) -> tuple[str, Any]:
        if not hasattr(self._own, "process"):
            self._own.process = _Process()
            self._started.append(self._own.process)
        process: _Process = self._own.process
        return process.do(worker, task)


class _Process:
    """A process with a host, which is spoken to through pipes. One of `multiprocessing` would run
    its caller's script once more."""

    def __init__(self) -> None:
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        self._busy = False

    def do(self, worker: Worker, task: Any) -> tuple[str, Any]:
        """As `Host.do`. Raises WorkspaceError if the process is gone."""
        tasks, outcomes = self._process.stdin, self._process.stdout
        assert tasks is not None and outcomes is not None
        asked = pickle.dumps((worker, task))
        self._busy = True
        try:
            tasks.write(asked)
            tasks.flush()
            state, value = pickle.load(outcomes)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise WorkspaceError(
                f"A worker's process has stopped (exit code {self._process.wait()}). Run the same "
                "command again; nothing finished is lost. If memory ran out, lower engine.workers."
            ) from error
        finally:
            self._busy = False
        if state == RAISED:  # a fault of the task's
            raise value
        return state, value

    def ask_to_end(self) -> None:
        if self._busy:
            self._process.terminate()
        else:
            self._close()

    def end(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what could not be sent
                pipe.close()


def serve() -> None:
    """Do the tasks that come on standard input until it ends, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which the parent hands on
    progress.plain()
    host, tasks, idle = Host(threads=1), SimpleQueue[Any](), threading.Event()
    with os.fdopen(os.dup(1), "wb") as outcomes:
        os.dup2(2, 1)  # what libraries print
        threading.Thread(target=_read, args=(tasks, idle), daemon=True).start()
        while True:
            idle.set()
            if (asked := tasks.get()) is None:
                return
            try:
                outcome = host.do(*asked)
            except Exception as error:
                error.add_note(traceback.format_exc())
                outcome = RAISED, error
            outcomes.write(pickle.dumps(outcome))
            outcomes.flush()


def _read(tasks: SimpleQueue[Any], idle: threading.Event) -> None:
    """Take tasks as they come. Where no more can, the process ends: if it is at work, the one that
    asked was killed, its run's folder is locked no more, and nobody may go on writing there."""
    with suppress(EOFError, OSError):
        while True:
            task = pickle.load(sys.stdin.buffer)
            idle.clear()
            tasks.put(task)
    if not idle.is_set():
        os._exit(1)
    tasks.put(None)
