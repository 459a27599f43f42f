"""Shards of a stage that know nothing of each other make, together, the bytes of one process."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scores.colours import benchmark_prompts, write_benchmark
from typer.testing import CliRunner
from warm_selma import warm_selma

from pipeline.killing import finished, home, settings, tree
from selma import cli, pipeline, processes, row_files
from selma.config import RunConfig
from selma.errors import ConfigError, LeftToOthers, WorkspaceError
from selma.folder_lock import locked_folder, shard_of_folder
from selma.row_files import fill_rows, write_rows
from selma.workspace import EXPERTS, IMAGES, PROMPTS, SCORES, Workspace

CHUNK = 4
STAGES = {PROMPTS: "prompts", IMAGES: "images", EXPERTS: "experts", SCORES: "score"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    write_benchmark(place / "own.csv", benchmark_prompts(10))
    with home(place) as address:
        yield address


def config(place: Path, address: str, run: str) -> RunConfig:
    raw: dict[str, Any] = settings(place, address, run=run)
    choose = {"candidates": 2, "scorer": "toybox"}
    raw["images"] = {**raw["images"], "choose": choose}
    raw["scores"] |= {"prompts": 6, "further": {"own": {"benchmark": str(place / "own.csv")}}}
    return RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def whole(place: Path, address: str) -> dict[str, str]:
    one = config(place, address, "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "CHUNK", CHUNK)
        pipeline.run(one)
    return tree(Path(one.run_folder))


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are made few at a time, so that few are enough to be shared."""
    monkeypatch.setattr(row_files, "CHUNK", CHUNK)


@pytest.mark.usefixtures("few_at_once")
def test_shards_one_after_another(place: Path, address: str, whole: dict[str, str]) -> None:
    """Whoever comes last finishes; the command without a shard finds everything made."""
    three = config(place, address, "three")
    for stage in (PROMPTS, IMAGES, EXPERTS, SCORES):
        if stage == SCORES:
            pipeline.merge(three)
        # Images first, then what is said of them: whoever comes early finds others' missing.
        passes = [[pipeline.shard(three, stage, number, 3) for number in range(3)]]
        while any(passes[-1]) and len(passes) < 4:
            passes.append([pipeline.shard(three, stage, number, 3) for number in range(3)])
        assert not any(passes[-1]) and (len(passes) > 1) == (stage in (IMAGES, SCORES))
    images = finished(Path(three.run_folder))
    pipeline.run(three)
    assert images.items() <= finished(Path(three.run_folder)).items()
    assert tree(Path(three.run_folder)) == whole


@pytest.fixture(scope="module")
def selma(place: Path) -> Iterator[Path]:
    few = f"from selma import row_files; row_files.CHUNK = {CHUNK}"
    with warm_selma(place / "bin", before=few) as program:
        yield program


@pytest.mark.usefixtures("few_at_once")
def test_shards_at_the_same_time(
    place: Path, address: str, whole: dict[str, str], selma: Path
) -> None:
    two = config(place, address, "two")
    file = place / "two.yaml"
    file.write_text(yaml.safe_dump(json.loads(two.model_dump_json())))

    def started(stage: str, number: int) -> subprocess.Popen[str]:
        command = [selma, STAGES[stage], str(file), "--shard", f"{number}/2"]
        return subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    pipeline.prompts(two)
    for stage in (IMAGES, IMAGES, None, SCORES, SCORES):
        if stage is None:  # skills are divided, and no two shards are at one item
            pipeline.experts(two)
            pipeline.merge(two)
            continue
        both = [started(stage, number) for number in (1, 2)]
        for each in both:
            said, _ = each.communicate(timeout=300)
            assert each.returncode == 0, said
    pipeline.run(two)
    assert tree(Path(two.run_folder)) == whole


@pytest.mark.usefixtures("few_at_once")
def test_what_a_shard_left_is_made_by_the_stage(
    place: Path, address: str, whole: dict[str, str]
) -> None:
    some = config(place, address, "some")
    pipeline.prompts(some)
    assert pipeline.shard(some, IMAGES, 1, 3)
    there = finished(Path(some.run_folder))
    assert 0 < len([path for path in there if path.suffix == ".png"]) < 16
    pipeline.images(some)
    pipeline.experts(some)
    pipeline.merge(some)
    for number in (0, 2):  # the second shard never comes
        pipeline.shard(some, SCORES, number, 3)
    pipeline.run(some)
    assert tree(Path(some.run_folder)) == whole


def test_a_shard_needs_what_stands_before_it(place: Path, address: str) -> None:
    early = config(place, address, "early")
    with pytest.raises(WorkspaceError, match="selma prompts"):
        pipeline.shard(early, IMAGES, 0, 2)
    with pytest.raises(ConfigError, match="engine"):
        other = early.model_copy(update={"engine": RunConfig.model_validate(
            {"name": "x", "engine": {"kind": "ray"}}).engine})  # fmt: skip
        pipeline.shard(other, PROMPTS, 0, 2)


def test_a_folder_is_held_by_a_shard_once_and_never_with_the_whole(tmp_path: Path) -> None:
    with shard_of_folder(tmp_path, 0, 2):
        with shard_of_folder(tmp_path, 1, 2):
            pass  # the other
        with pytest.raises(WorkspaceError, match="in use"), shard_of_folder(tmp_path, 0, 2):
            pass
        with pytest.raises(WorkspaceError, match="in use"), locked_folder(tmp_path):
            pass
    with locked_folder(tmp_path):  # released
        pass


def test_rows_of_shards_are_those_of_one(tmp_path: Path) -> None:
    jobs = {f"j{number}": number for number in range(100)}
    asked: list[int] = []

    def work(part: Any) -> list[dict[str, int]]:
        asked.extend(part)
        return [{"square": number * number} for number in part]

    fill_rows(tmp_path / "one.jsonl", jobs, work, key="id", title="one")
    asked.clear()
    path = tmp_path / "three.jsonl"
    for number in (2, 0):
        with processes.sharded(number, 3), pytest.raises(LeftToOthers):
            fill_rows(path, jobs, work, key="id", title="three")
    # Cut short, as by a kill: this chunk is made again, and no other.
    cut = tmp_path / "three.jsonl.part-1-of-3"
    cut.write_bytes(cut.read_bytes()[:-5])
    with processes.sharded(0, 3), pytest.raises(LeftToOthers):
        fill_rows(path, jobs, work, key="id", title="three")
    with processes.sharded(1, 3):
        fill_rows(path, jobs, work, key="id", title="three")
    assert path.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert list(tmp_path.glob("*.part-*")) == []
    assert len(asked) <= 100 + 32 and set(asked) == set(range(100))


def test_rows_of_shards_are_taken_by_who_does_all(tmp_path: Path) -> None:
    jobs = {f"j{number}": number for number in range(100)}
    path, asked = tmp_path / "rows.jsonl", list[int]()

    def work(part: Any) -> list[dict[str, int]]:
        asked.extend(part)
        return [{"n": number} for number in part]

    with processes.sharded(1, 2), pytest.raises(LeftToOthers):
        fill_rows(path, jobs, work, key="id", title="rows")
    assert len(asked) == 32 + 4
    write_rows(path, ({"id": f"j{n}", "n": n} for n in range(40)))  # begun before, by nobody's part
    fill_rows(path, jobs, work, key="id", title="rows")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["n"] for row in rows] == list(range(100))
    assert sorted(asked[36:]) == list(range(64, 96))  # what neither had
    assert list(tmp_path.glob("*.part-*")) == []


def test_shards_that_begin_at_the_same_time_put_nothing_aside_twice(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    old = folder.item(IMAGES, "coco", recipe={"n": 1})
    (old.begin() / "a.png").write_bytes(b"old")
    old.finish([old.path / "a.png"], {})
    mistakes: list[BaseException] = []

    def begin(n: int) -> None:
        try:
            item = folder.item(IMAGES, "coco", recipe={"n": 2})
            (item.begin() / f"{n}.png").write_bytes(b"new")
        except BaseException as error:
            mistakes.append(error)

    with processes.sharded(0, 8):
        threads = [threading.Thread(target=begin, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert mistakes == []
    assert len(list((tmp_path / IMAGES / "coco").glob("*.png"))) == 8
    assert [path.name for path in (tmp_path / "superseded").rglob("*.png")] == ["a.png"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/99999"])
def test_a_wrong_shard_is_refused(place: Path, text: str) -> None:
    file = place / "wrong.yaml"
    file.write_text("name: wrong\n")
    done = CliRunner().invoke(cli.app, ["images", str(file), "--shard", text])
    assert done.exit_code == 2 and "I/N" in done.output
