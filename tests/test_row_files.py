"""Rows that are made chunk by chunk: wherever they were stopped, they end with the same bytes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from selma import row_files
from selma.errors import DataError
from selma.record_files import each_row
from selma.row_files import Row, _done, fill_rows, in_rounds, write_rows

JOBS = {f"p{number}": number for number in range(8)}


class Work:
    """A job's square and its place in its chunk, which shows what it was made with."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, part: Sequence[int]) -> list[Row]:
        self.seen += part
        return [{"square": job**2, "place": place} for place, job in enumerate(part)]


def filled(path: Path, *, chunk: int | None = 3, jobs: dict[str, int] = JOBS) -> Work:
    work = Work()
    fill_rows(path, jobs, work, key="prompt", title="squares", chunk=chunk)
    return work


def test_each_job_has_its_row_in_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    filled(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == list(JOBS)
    assert [row["place"] for row in rows] == [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("chunk", [1, 3, 8, 20])
@pytest.mark.parametrize("lines_left", range(9))
@pytest.mark.parametrize("torn", [b"", b'{"prompt": "p'])
def test_stopped_rows_end_with_the_same_bytes(
    tmp_path: Path, chunk: int, lines_left: int, torn: bytes
) -> None:
    path = tmp_path / "rows.jsonl"
    filled(path, chunk=chunk)
    complete = path.read_bytes()
    path.write_bytes(b"".join(complete.splitlines(keepends=True)[:lines_left]) + torn)
    again = filled(path, chunk=chunk)
    assert path.read_bytes() == complete
    done = len(JOBS) if lines_left == len(JOBS) else lines_left // chunk * chunk
    assert again.seen == list(JOBS.values())[done:], "what was there is not made again"


def test_rows_of_other_jobs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    filled(path)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"rows\.jsonl holds rows of other jobs"):
        filled(path, jobs={"other": 1} | JOBS)
    with pytest.raises(DataError, match="other jobs"):
        filled(path, jobs={"p0": 0})
    assert path.read_bytes() == before


def test_a_row_is_wanted_of_every_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 jobs need a row each, but 1 came"):
        fill_rows(tmp_path / "x", {"a": 1, "b": 2}, lambda part: [{}], key="id", title="few")


def test_chunks_have_the_usual_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "CHUNK", 5)
    assert [len(rows) for rows in in_rounds(range(12), Work())] == [5, 5, 2]


def test_a_file_is_written_whole_in_the_same_form(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    write_rows(tmp_path / "b", rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that are held beyond what was held before, at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_rows_are_written_read_and_gone_on_with_without_being_held(tmp_path: Path) -> None:
    path, count = tmp_path / "rows.jsonl", 20_000
    text = "a" * 500  # 10 MB
    written = peak_of(lambda: write_rows(path, ({"id": str(n), "t": text} for n in range(count))))
    assert path.stat().st_size > 10e6
    read = peak_of(lambda: sum(1 for _ in each_row(path, dict[str, Any])))
    with path.open("ab") as file:
        file.write(b'{"torn')
    ids = list(map(str, range(count + 40)))
    done = list[int]()
    resumed = peak_of(lambda: done.append(_done(path, ids, "id", 32)))
    assert done == [count // 32 * 32]
    assert sum(1 for _ in each_row(path, dict[str, Any])) == done[0]
    assert max(written, read, resumed) < 2e6
