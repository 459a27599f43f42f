"""Work in processes of this machine of one thread each: a host in each, handed a task at a time."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any

from selma import progress
from selma.config.engine import LocalEngine
from selma.engines.engine import Worker
from selma.engines.hosting import Host, result_of
from selma.errors import WorkspaceError
from selma.stopping import SIGNALS

RAISED = "raised"
STOP_S = 60
"""How long a process may take to end before it is killed: one that trains goes on to the end of its
step, and writes a checkpoint."""


@contextmanager
def opened(settings: LocalEngine) -> Iterator[OnProcesses]:
    """The engine while the block runs."""
    engine = OnProcesses(settings.workers)
    with _heeding_signals():
        try:
            yield engine
        finally:
            engine.close()


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """While the block runs, what asks this process for its end interrupts it, as Ctrl-C does, so
    that its workers are asked, too; then it ends by that signal."""
    asked: list[int] = []

    def heed(number: int, frame: Any) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    ours = [n for n in SIGNALS if main and signal.getsignal(n) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, heed)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if asked:
            signal.raise_signal(asked[0])


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
        waiting: deque[Future[Any]] = deque()
        values = iter(tasks)
        try:
            while True:
                for value in islice(values, 2 * self._workers + 1 - len(waiting)):
                    self._tasks += 1
                    waiting.append(self._threads.submit(self._do, worker, value))
                if not waiting:
                    return
                yield result_of(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()

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
    """A process with a host."""

    def __init__(self) -> None:
        context = get_context("spawn")  # forked, it would have this one's locks and threads
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        there.close()

    def do(self, worker: Worker, task: Any) -> tuple[str, Any]:
        """As `Host.do`. Raises WorkspaceError if the process is gone."""
        try:
            self._here.send((worker, task))
            state, value = self._here.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise WorkspaceError(
                f"A worker's process has stopped (exit code {self._process.exitcode}). Run the "
                "same command again; nothing finished is lost. If memory ran out, lower "
                "engine.workers."
            ) from error
        if state == RAISED:  # a fault of the task's
            raise value
        return state, value

    def ask_to_end(self) -> None:
        self._process.terminate()

    def end(self) -> None:
        self._process.join(STOP_S)
        if self._process.is_alive():
            self._process.kill()


def _serve(connection: Connection) -> None:
    """Do tasks until the other side is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which the parent hands on
    progress.plain()
    host = Host(threads=1)
    with suppress(EOFError):
        while True:
            worker, task = connection.recv()
            try:
                outcome = host.do(worker, task)
            except Exception as error:
                error.add_note(traceback.format_exc())
                outcome = RAISED, error
            connection.send(outcome)


def _end_with_parent() -> None:
    """A run that was killed holds its folder no more: nobody may go on writing there."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
