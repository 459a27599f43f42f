"""One look for every progress bar: what, how far, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from selma.processes import launched

console = Console(stderr=True)


class Advance(Protocol):
    def __call__(self, done: int = 1, *, note: str = "") -> None: ...


@contextmanager
def progress(what: str, *, total: int, done: int = 0) -> Iterator[Advance]:
    """Shows a bar on standard error while the block runs; call what it yields to advance it."""
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # Several processes would write over each other's bars.
    with Progress(*columns, console=console, disable=launched()[0] > 0) as bar:
        task = bar.add_task(what, total=total, completed=done, note="")

        def advance(done: int = 1, *, note: str = "") -> None:
            if note:
                bar.update(task, note=note)
            bar.advance(task, done)

        yield advance
