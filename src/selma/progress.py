"""How far the work is, on standard error: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from selma.processes import launched
from selma.rich_screen import Screen
from selma.screen import shown

console = Screen(stderr=True)
LINE_EVERY_S = 15.0
"""Seconds between two plain lines, at least: a log of an hour stays readable."""


def warn(text: str) -> None:
    """Say on standard error what somebody should look at; nothing in it is obeyed."""
    console.print(text, style="yellow", highlight=False, markup=False)


_plain = False


def plain() -> None:
    """Write lines from now on, also on a terminal: others write there at the same time."""
    global _plain
    _plain = True


class Advance(Protocol):
    def __call__(self, done: int = 1, *, note: str = "") -> None: ...


@contextmanager
def progress(what: str, *, total: int, done: int = 0) -> Iterator[Advance]:
    """Show progress on standard error while the block runs; call what it yields to advance it."""
    what = shown(what)
    if launched()[0] > 0:  # several processes would write over each other
        yield _silent
    elif not _plain and (console.is_terminal or console.is_jupyter):
        with _bar(what, total=total, done=done) as advance:
            yield advance
    else:
        with _lines(what, total=total, done=done) as advance:
            yield advance


def _silent(done: int = 1, *, note: str = "") -> None:
    """Show no progress."""


@contextmanager
def _bar(what: str, *, total: int, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, completed=done, note="")

        def advance(done: int = 1, *, note: str = "") -> None:
            if note:
                bar.update(task, note=shown(note))
            bar.advance(task, done)

        yield advance


@contextmanager
def _lines(
    what: str, *, total: int, done: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Advance]:
    """Write a line at the start, one every `LINE_EVERY_S` at most, and one at the end."""
    lines = _Lines(what, total, done, clock)
    lines.write(lines.count)
    yield lines.advance
    lines.write(f"{lines.count} in {lines.seconds:.0f} s{lines.rate}")


class _Lines:
    def __init__(self, what: str, total: int, done: int, clock: Callable[[], float]) -> None:
        self.what, self.total, self.done, self.clock = what, total, done, clock
        self.before = done
        self.started = self.written = clock()

    def advance(self, done: int = 1, *, note: str = "") -> None:
        self.done += done
        if self.clock() - self.written >= LINE_EVERY_S and self.done < self.total:
            self.write(", ".join(filter(None, [f"{self.count}{self.rate}{self.left}", note])))

    def write(self, text: str) -> None:
        self.written = self.clock()
        console.print(f"{self.what}: {text}", markup=False, highlight=False, soft_wrap=True)

    @property
    def count(self) -> str:
        return f"{self.done} of {self.total}"

    @property
    def seconds(self) -> float:
        return self.clock() - self.started

    @property
    def rate(self) -> str:
        """How fast it goes; empty as long as nobody can tell."""
        per_second = self._per_second
        if per_second is None:
            return ""
        slow = per_second < 1
        return f", {1 / per_second:.1f} s each" if slow else f", {per_second:.1f} a second"

    @property
    def left(self) -> str:
        per_second = self._per_second
        return f", {(self.total - self.done) / per_second:.0f} s left" if per_second else ""

    @property
    def _per_second(self) -> float | None:
        count = self.done - self.before
        return count / self.seconds if count and self.seconds else None
