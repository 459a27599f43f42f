"""Rows as files: one JSON line for each job, made chunk by chunk, and gone on with after a stop."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from selma import processes
from selma.disk import regular
from selma.errors import DataError, LeftToOthers
from selma.progress import progress
from selma.record_files import each_row, json_text, read_lines, write_lines
from selma.workspace import append_lines

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
    at_once: int = 1,
) -> None:
    """Append a row for each job that has none yet; each process of a run does a part of the work.

    jobs: id → what `work` is handed. The id is added to its row as `key`. at_once: see `in_rounds`.
    Raises DataError if the file holds other ids than these in this order.
    """
    chunk = chunk or CHUNK
    ids = list(jobs)
    if (shard := processes.shard()) is not None:
        _fill_part(path, jobs, work, shard, key=key, title=title, chunk=chunk, at_once=at_once)
        return
    known = _rows_of_parts(path, key)
    done = processes.gathered(_done(path, ids, key, chunk) if processes.main() else 0)[0]

    def row_of_each(part: Sequence[tuple[str, Job]]) -> Sequence[Mapping[str, Any]]:
        if all(name in known for name, _ in part):
            return [known[name] for name, _ in part]
        return work([job for _, job in part])

    with progress(title, total=len(ids), done=done) as advance:
        missing = [(name, jobs[name]) for name in ids[done:]]
        for rows in in_rounds(missing, row_of_each, chunk=chunk, at_once=at_once):
            named = ids[done : done + len(rows)]
            if processes.main():
                append_lines(path, ({key: i, **row} for i, row in zip(named, rows, strict=True)))
            done += len(rows)
            advance(len(rows))
    if processes.main():
        _drop_parts(path)


def _fill_part(
    path: Path,
    jobs: Mapping[str, Job],
    work: Work[Job],
    shard: tuple[int, int],
    *,
    chunk: int,
    key: str,
    **more: Any,
) -> None:
    """Make the rows of every n-th chunk, in a file of the shard's own beside the file; whoever has
    all rows then writes it. Raises LeftToOthers while rows are missing."""
    number, count = shard
    ids = list(jobs)
    known = {row[key]: row for row in _readable(path)}
    if known.keys() != set(ids):
        starts = range(0, len(ids), chunk)[number::count]
        mine = {name: jobs[name] for start in starts for name in ids[start : start + chunk]}
        own = path.with_name(f"{path.name}.part-{number + 1}-of-{count}")
        with processes.sharded(0, 1):
            fill_rows(own, mine, work, key=key, chunk=chunk, **more)
        known |= {name: {key: name, **row} for name, row in _rows_of_parts(path, key).items()}
        if any(name not in known for name in ids):
            raise LeftToOthers(f"{path.name}: other shards have rows to make.")
        write_rows(path, (known[name] for name in ids))
    _drop_parts(path)


def _parts_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.part-*-of-*"))


def _rows_of_parts(path: Path, key: str) -> dict[str, Row]:
    """Id → its row without the id, of all shards that have any."""
    rows = (row for part in _parts_of(path) for row in _readable(part))
    return {row[key]: {name: row[name] for name in row if name != key} for row in rows}


def _readable(path: Path) -> list[Row]:
    """The rows of a file that may be missing, or be taken away by another shard; a last line
    without its end is left out."""
    try:
        return read_lines(path, repair=False) if path.is_file() else []
    except DataError:
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines]


def _drop_parts(path: Path) -> None:
    for part in _parts_of(path):
        part.unlink(missing_ok=True)


def in_rounds(
    jobs: Sequence[Job], work: Work[Job], *, chunk: int | None = None, at_once: int = 1
) -> Iterator[list[Row]]:
    """The rows of all jobs in their order; each process makes one chunk at a time, and is handed
    the others' as well.

    at_once: how many chunks a process that is alone has under way, each in a thread; for work that
    is done elsewhere.
    """
    chunk = chunk or CHUNK

    def made(start: int) -> list[Row]:
        mine = jobs[start : start + chunk]
        rows = list(work(mine)) if mine else []
        if len(rows) != len(mine):
            raise ValueError(f"{len(mine)} jobs need a row each, but {len(rows)} came.")
        return [dict(row) for row in rows]

    if at_once > 1 and processes.count() == 1:
        yield from _in_threads(made, range(0, len(jobs), chunk), at_once)
        return
    for start in range(0, len(jobs), chunk * processes.count()):
        rows = made(start + chunk * processes.number())
        yield list(chain.from_iterable(processes.gathered(rows)))


def _in_threads(
    made: Callable[[int], list[Row]], starts: range, at_once: int
) -> Iterator[list[Row]]:
    """What is made for each start, in their order; no more than `at_once` are begun and not yet
    handed on."""
    under_way: deque[Future[list[Row]]] = deque()
    with ThreadPoolExecutor(at_once) as threads:
        try:
            for start in starts:
                if len(under_way) == at_once:
                    yield under_way.popleft().result()
                under_way.append(threads.submit(made, start))
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """All rows in one file, whole or not at all."""
    lines = (json_text(row, sort_keys=True) + "\n" for row in rows)
    write_lines(path, (line.encode() for line in lines))


def _done(path: Path, ids: Sequence[str], key: str, chunk: int) -> int:
    """How many jobs have their rows; a chunk that was cut short is taken off the file."""
    count = 0
    for row in each_row(path, dict[str, Any], repair=True):
        if count == len(ids) or row.get(key) != ids[count]:
            raise DataError(f"{path} holds rows of other jobs. Remove it and run again.")
        count += 1
    done = count if count == len(ids) else count // chunk * chunk
    if done < count:
        with regular(path) as file:
            write_lines(path, islice(file, done))
    return done
