"""Rows as files: one JSON line for each job, made chunk by chunk, and gone on with after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from selma import processes
from selma.errors import DataError
from selma.progress import progress
from selma.workspace import append_lines, read_lines, write_bytes

CHUNK = 32
"""Jobs whose rows are made and written together: what a crash can cost. Resuming starts at a
multiple of it, so that a job always meets the same neighbours in its batch."""

Row = dict[str, Any]
Job = TypeVar("Job")
Work = Callable[[Sequence[Job]], Sequence[Mapping[str, Any]]]
"""A chunk of jobs → a row for each, in their order."""


def fill_rows(
    path: Path,
    jobs: Mapping[str, Job],
    work: Work[Job],
    *,
    key: str,
    title: str,
    chunk: int | None = None,
) -> None:
    """Append a row for each job that has none yet; each process of a run does a part of the work.

    jobs: id → what `work` is handed. The id is added to its row as `key`. Raises DataError if the
    file holds other ids than these in this order.
    """
    chunk = chunk or CHUNK
    ids = list(jobs)
    done = processes.gathered(_done(path, ids, key, chunk) if processes.main() else 0)[0]
    with progress(title, total=len(ids), done=done) as advance:
        for rows in in_rounds([jobs[name] for name in ids[done:]], work, chunk=chunk):
            named = ids[done : done + len(rows)]
            if processes.main():
                append_lines(path, ({key: i, **row} for i, row in zip(named, rows, strict=True)))
            done += len(rows)
            advance(len(rows))


def in_rounds(
    jobs: Sequence[Job], work: Work[Job], *, chunk: int | None = None
) -> Iterator[list[Row]]:
    """The rows of all jobs in their order; each process makes one chunk at a time, and is handed
    the others' as well."""
    chunk = chunk or CHUNK
    for start in range(0, len(jobs), chunk * processes.count()):
        first = start + chunk * processes.number()
        mine = jobs[first : first + chunk]
        rows = list(work(mine)) if mine else []
        if len(rows) != len(mine):
            raise ValueError(f"{len(mine)} jobs need a row each, but {len(rows)} came.")
        yield list(chain.from_iterable(processes.gathered(rows)))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """All rows in one file, whole or not at all."""
    lines = (json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    write_bytes(path, "".join(lines).encode())


def _done(path: Path, ids: Sequence[str], key: str, chunk: int) -> int:
    """How many jobs have their rows; a chunk that was cut short is taken off the file."""
    rows = read_lines(path, repair=True)
    if [row.get(key) for row in rows] != list(ids[: len(rows)]):
        raise DataError(f"{path} holds rows of other jobs. Remove it and run again.")
    done = len(rows) if len(rows) == len(ids) else len(rows) // chunk * chunk
    if done < len(rows):
        lines = path.read_bytes().split(b"\n")
        write_bytes(path, b"".join(line + b"\n" for line in lines[:done]))
    return done
