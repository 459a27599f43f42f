"""Work on a cluster of Ray: a host in each worker's process; tasks outlive their workers."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from selma.config.engine import RayEngine
from selma.engines.engine import Worker, in_order
from selma.engines.hosting import Host, deciding_versions, result_of
from selma.errors import ConfigError, SelmaError, WorkspaceError
from selma.plurals import counted
from selma.progress import warn

REACHED_S = 20
"""How long a cluster's first connection may take."""
ROOM_S = 60
"""How long no worker may start before that is said."""
AHEAD = 2
"""Tasks of each worker that are under way: one that it does, and one that waits for it there."""


@contextmanager
def opened(settings: RayEngine) -> Iterator[OnRay]:
    """The engine while the block runs. Raises ConfigError without Ray or its cluster."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "engine.kind ray needs the package ray, which is missing. Install it: "
            "pip install 'selma[ray]'."
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    own = not ray.is_initialized()
    if own:
        # Not None, by which Ray would wait for a cluster that was here once.
        address = settings.address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            _require_reachable(address)
            ray.init(
                address=address,
                include_dashboard=False,
                configure_logging=True,
                logging_level=logging.WARNING,
                log_to_driver=True,
            )
        except (OSError, ValueError, RuntimeError, OverflowError) as error:
            where = "this machine" if address == "local" else address
            raise ConfigError(
                f"engine.address: no cluster of Ray could be reached at {where}: "
                f"{(str(error) or type(error).__name__).splitlines()[0]:.200}"
            ) from error
    engine = OnRay(ray, settings)
    try:
        yield engine
    finally:
        engine.close()
        if own:
            ray.shutdown()


def _require_reachable(address: str) -> None:
    """Raises OSError or OverflowError where nothing answers at host:port, which Ray would ask for
    minutes without a word."""
    host, _, port = address.rpartition(":")
    if "://" not in address and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_S).close()


@dataclass(eq=False)
class _Task:
    """A task of somebody who waits for it."""

    worker: Worker
    value: Any
    future: Future[Any] = field(default_factory=Future)
    losses: int = 0

    def begin(self) -> bool:
        """Whether somebody waits for it; then it can be cancelled no more."""
        return self.future.running() or self.future.set_running_or_notify_cancel()


class OnRay:
    """Hands tasks to hosts. One thread speaks with Ray, whoever asks."""

    def __init__(self, ray: Any, settings: RayEngine) -> None:
        self._ray = ray
        self._settings = settings
        self._host = ray.remote(Host)
        self._asked_for = self._again = self._lost = 0
        """Tasks, those that were handed out again, and hosts that were lost."""
        self._failed = 0
        """Hosts, one after another, that could not be started."""
        self._waiting: deque[_Task] = deque()
        self._open: list[_Task] = []
        """Tasks that somebody may still wait for."""
        self._changed = threading.Condition()
        self._closed = False
        self._starting: dict[Any, Any] = {}
        """Sign of being ready → host."""
        self._hosts: dict[Any, int] = {}
        """Host → how many tasks it has."""
        self._under_way: dict[Any, tuple[Any, _Task]] = {}
        """Result to come → the host that makes it, and its task."""
        self._resources_of: tuple[float, Mapping[str, float]] = (float("-inf"), {})
        self._roomless_since, self._said_full = time.monotonic(), False
        self._thread = threading.Thread(target=self._serve, name="selma-ray", daemon=True)
        self._thread.start()

    @property
    def workers(self) -> int:
        return self._wanted()

    @property
    def counts(self) -> Mapping[str, int]:
        return {"tasks": self._asked_for, "again": self._again, "lost": self._lost}

    def map(self, worker: Worker, tasks: Iterable[Any]) -> Iterator[Any]:
        def ask(value: Any) -> Future[Any]:
            return self._ask(_Task(worker, value))

        outcomes = in_order(tasks, ask, most=lambda: AHEAD * self.workers + 1)
        with closing(outcomes):
            yield from map(result_of, outcomes)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=30)
        for host in (*self._hosts, *self._starting.values()):
            self._ray.kill(host)

    def _ask(self, task: _Task) -> Future[Any]:
        with self._changed:
            if not self._thread.is_alive():
                raise WorkspaceError("The cluster of Ray is gone. Run the same command again.")
            self._open = [each for each in self._open if not each.future.done()]
            self._open.append(task)
            self._asked_for += 1
            self._waiting.append(task)
            self._changed.notify()
        return task.future

    def _serve(self) -> None:
        try:
            while True:
                with self._changed:
                    while not (self._waiting or self._under_way or self._closed):
                        self._changed.wait()
                    if self._closed:
                        return
                    self._hand_out()
                self._collect()
        except BaseException as error:  # whoever waits must hear of it
            with self._changed:
                tasks = [task for task in self._open if not task.future.done()]
                self._waiting.clear()
            gone = WorkspaceError(
                f"The cluster of Ray is gone ({type(error).__name__}: {error}). Run the same "
                "command again; nothing finished is lost."
            )
            for task in filter(_Task.begin, tasks):
                task.future.set_exception(error if isinstance(error, SelmaError) else gone)

    def _hand_out(self) -> None:
        """Give waiting tasks to hosts with room, and start hosts as long as more are wanted."""
        missing = self._wanted() - len(self._hosts) - len(self._starting)
        for _ in range(min(missing, len(self._waiting) + len(self._under_way))):
            host = self._host.options(**self._resources).remote(max(1, int(self._settings.cpus)))
            self._starting[host.ready.remote()] = host
        while self._waiting and self._hosts:
            host = min(self._hosts, key=lambda each: self._hosts[each])
            if self._hosts[host] >= AHEAD:
                break
            task = self._waiting.popleft()
            if not task.begin():
                continue
            self._hosts[host] += 1
            self._again += task.losses > 0
            self._under_way[host.do.remote(task.worker, task.value)] = host, task

    def _collect(self) -> None:
        """Wait a moment for what is under way, and take what has come."""
        refs = [*self._starting, *self._under_way]
        if not refs:
            return
        came, _ = self._ray.wait(refs, num_returns=1, timeout=0.2, fetch_local=False)
        self._say_if_full()
        for ref in came:
            if ref in self._starting:
                self._started(ref)
            else:
                self._finished(ref)

    def _say_if_full(self) -> None:
        """Once, where the cluster has had no room for a single worker for a while."""
        if self._hosts:
            self._roomless_since = time.monotonic()
        elif not self._said_full and time.monotonic() - self._roomless_since > ROOM_S:
            self._said_full = True
            warn(
                f"No worker has started for {ROOM_S} s: the cluster has no room for one of "
                f"{self._settings.cpus:g} cores and {self._gpus:g} GPUs. Waiting for it to grow, "
                "or for others to end; smaller workers: engine.cpus, engine.gpus."
            )

    def _started(self, ref: Any) -> None:
        host = self._starting.pop(ref)
        try:
            theirs = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:  # lost before it began: another starts
            self._failed += 1
            if self._failed > self._settings.losses * self._wanted():
                raise ConfigError(
                    f"{counted(self._failed, 'worker')} could not be started, one after another, "
                    f"the last by: {_reason(error)}. Every machine of the cluster must have selma "
                    "and its libraries; see what it says itself, and run the same command again."
                ) from error
            return
        self._failed = 0
        if theirs != (ours := deciding_versions()):
            other = ", ".join(
                f"{name} {theirs.get(name)} there and {number} here"
                for name, number in ours.items()
                if theirs.get(name) != number
            )
            raise ConfigError(
                f"Every machine of the cluster must have the versions of this one, by which files "
                f"are told, but a worker has others: {other}. Install the same everywhere."
            )
        self._hosts[host] = 0

    def _finished(self, ref: Any) -> None:
        host, task = self._under_way.pop(ref)
        lost = (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError)
        try:
            outcome = self._ray.get(ref)
        except lost as error:
            if self._hosts.pop(host, None) is not None:
                self._lost += 1
                warn(f"A worker was lost ({_reason(error)}); what it had is done again.")
            task.losses += 1
            if task.losses <= self._settings.losses:
                with self._changed:
                    self._waiting.appendleft(task)
                return
            again_and_again = WorkspaceError(
                f"{counted(task.losses, 'worker was', 'workers were')} lost at the same piece of "
                f"work, the last by: {_reason(error)}. If memory ran out, give "
                "each worker more of the machine (engine.cpus, engine.gpus, engine.workers)."
            )
            task.future.set_exception(again_and_again)
        except Exception as error:  # a fault of the task's: shown where it is asked for
            task.future.set_exception(error)
        else:
            task.future.set_result(outcome)
        if host in self._hosts:
            self._hosts[host] -= 1

    def _wanted(self) -> int:
        """How many hosts there should be."""
        if self._settings.workers is not None:
            return self._settings.workers
        whole = self._whole()
        gpus, each = whole.get("GPU", 0.0), self._gpus
        by_gpu = int(gpus / each) if each else None
        by_cpu = int(whole.get("CPU", 0.0) / self._settings.cpus)
        return max(1, by_cpu if by_gpu is None else min(by_cpu, by_gpu))

    @property
    def _gpus(self) -> float:
        if self._settings.gpus is not None:
            return self._settings.gpus
        return 1.0 if self._whole().get("GPU", 0.0) >= 1 else 0.0

    def _whole(self) -> Mapping[str, float]:
        """What the cluster has, asked once a second: each task would ask for it, of another
        process."""
        asked, whole = self._resources_of
        if time.monotonic() - asked > 1:
            whole = self._ray.cluster_resources()
            self._resources_of = time.monotonic(), whole
        return whole

    @property
    def _resources(self) -> dict[str, Any]:
        # Lost hosts are replaced by us: Ray would keep a task for one that finds no room any more.
        return {
            "num_cpus": self._settings.cpus,
            "num_gpus": self._gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
        }


def _reason(error: BaseException) -> str:
    """Why Ray says that a host is gone, in a line: of an error that was raised there, the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "creation task" in lines[0]:
        lines = lines[-1:]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]
