"""What an engine is: it decides where work is done, and never what comes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from selma.config.section import Section


@dataclass(frozen=True)
class Worker:
    """Something that is loaded once, and then handed one task after another."""

    make: Callable[..., Callable[[Any], Any]]
    """Loads it: a function of a module, which another process can import."""
    args: tuple[Any, ...]
    """What it is made of: plain values, equal for equal workers."""
    alone: bool = False
    """Whether it takes the place of what was loaded before: it brings a base of its own."""


class Engine(Protocol):
    """Open to work. Tasks, results and SelmaErrors go from process to process."""

    @property
    def workers(self) -> int:
        """How many tasks are worth having under way."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """So far, for the run's journal: "tasks", those done "again", workers "lost"."""
        ...

    def map(self, worker: Worker, tasks: Iterable[Any]) -> Iterator[Any]:
        """The result of each task, in their order; tasks are taken as workers become free, so that
        no more of them and of their results wait than `workers` and a few. Several threads may call
        it at once. Raises what a task raises, and WorkspaceError where no worker survives one."""
        ...


def in_order(
    tasks: Iterable[Any], ask: Callable[[Any], Future[Any]], *, most: Callable[[], int]
) -> Generator[Any]:
    """What comes of each task, in their order, of which no more than `most` are asked for at once.
    Those that nobody waits for any more are cancelled."""
    asked: deque[Future[Any]] = deque()
    values = iter(tasks)
    try:
        while True:
            asked += map(ask, islice(values, max(0, most() - len(asked))))
            if not asked:
                return
            yield asked.popleft().result()
    finally:
        for future in asked:
            future.cancel()


@dataclass(frozen=True)
class EngineKind:
    """A row of the table: a kind of engine."""

    name: str
    settings: type[Section]
    opened: Callable[[Any], AbstractContextManager[Engine | None]]
    """The settings' engine while the block runs; None is this process itself. Raises ConfigError
    where it cannot be had."""
