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
from queue import Queue
from typing import Any

from selma import progress
from selma.config.engine import LocalEngine
from selma.engines.engine import Worker, in_order
from selma.engines.hosting import Host, result_of
from selma.errors import WorkspaceError

RAISED = "raised"
SERVE = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # a terminal's; see `serve`
    f"from {__name__} import serve; serve()"
)
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
        self._starting = threading.Lock()
        self._closed = False
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
        with self._starting:  # none starts that nobody would end
            self._closed = True
        for process in self._started:
            process.ask_to_end()
        for process in self._started:
            process.end()
        self._threads.shutdown()

    def _do(self, worker: Worker, task: Any) -> tuple[str, Any]:
        if not hasattr(self._own, "process"):
            with self._starting:
                if self._closed:
                    raise WorkspaceError("The engine is closed; open it anew for further tasks.")
                self._own.process = _Process()
                self._started.append(self._own.process)
        process: _Process = self._own.process
        return process.do(worker, task)


class _Process:
    """A process with a host, which is spoken to through pipes. One of `multiprocessing` would run
    its caller's script once more."""

    def __init__(self) -> None:
        folders = (folder for folder in sys.path if isinstance(folder, str))  # as imports do
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in folders)
        # -P: else the current folder comes first, and a file in it may be called as a package is.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        self._asked = threading.Lock()
        self._busy = self._ended = False

    def do(self, worker: Worker, task: Any) -> tuple[str, Any]:
        """As `Host.do`. Raises WorkspaceError if the process is gone."""
        tasks, outcomes = self._process.stdin, self._process.stdout
        assert tasks is not None and outcomes is not None
        asked = pickle.dumps((worker, task))
        with self._asked:
            if self._ended:
                raise WorkspaceError("The engine is closed; open it anew for further tasks.")
            self._busy = True
        try:
            pickle.dump(asked, tasks)
            tasks.flush()
            outcome = pickle.load(outcomes)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise WorkspaceError(
                f"A worker's process has stopped (exit code {self._process.wait()}). Run the same "
                "command again; nothing finished is lost. If memory ran out, lower engine.workers."
            ) from error
        finally:
            self._busy = False
        state, value = pickle.loads(outcome)
        if state == RAISED:  # a fault of the task's
            raise value
        return state, value

    def ask_to_end(self) -> None:
        with self._asked:
            self._ended = True
            busy = self._busy
        if busy:
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
    """Do the tasks that come on standard input until it ends, in a process of its own. Tasks and
    outcomes are pickled twice: what cannot be rebuilt leaves the next one readable."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which the parent hands on
    progress.plain()
    host, tasks = Host(threads=1), Queue[bytes | None]()
    # A broken pipe: the one that asked was killed.
    with suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as outcomes:
        os.dup2(2, 1)  # what libraries print
        threading.Thread(target=_read, args=(tasks,), daemon=True).start()
        while (asked := tasks.get()) is not None:
            outcome = _outcome(host, asked)
            tasks.task_done()  # before the next one can come, or the end
            pickle.dump(outcome, outcomes)
            outcomes.flush()


def _outcome(host: Host, asked: bytes) -> bytes:
    """What came of a pickled task, pickled; whatever goes wrong is an outcome, too."""
    try:
        return pickle.dumps(host.do(*pickle.loads(asked)))
    except Exception as error:
        trace = traceback.format_exc()
        error.add_note(trace)
        try:
            outcome = pickle.dumps((RAISED, error))
            pickle.loads(outcome)
        except Exception:  # of an error that takes more than its text
            outcome = pickle.dumps((RAISED, RuntimeError(trace)))
        return outcome


def _read(tasks: Queue[bytes | None]) -> None:
    """Take tasks as they come. Where no more can, the process ends: if it is at work, the one that
    asked was killed, its run's folder is locked no more, and nobody may go on writing there."""
    # Not sys.stdin, which is closed when the process ends, and would be in use here.
    with suppress(EOFError, OSError, pickle.UnpicklingError), open(0, "rb", closefd=False) as asked:
        while True:
            tasks.put(pickle.load(asked))
    if tasks.unfinished_tasks:
        os._exit(1)
    tasks.put(None)
