"""A run's folder on an object store: what is there comes, what is made goes, nothing is mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from pipeline.killing import home, settings, tree
from warm_selma import warm_selma

from selma import pipeline
from selma.config import RunConfig, parse_config
from selma.errors import ConfigError, DataError, WorkspaceError
from selma.storage import INDEX, LOCK, Storage, Times, stored
from selma.workspace import Workspace

FAST = Times(beat_s=0.2, quiet_s=1.5, push_s=0.2, settle_s=0.1)


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/run"


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def there(url: str) -> dict[str, bytes]:
    fs, base = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {path[len(base) + 1 :]: fs.cat_file(path) for path in fs.find(base)}


def item(root: Path, name: str, text: str) -> None:
    its = Workspace(root).item("2-images", name, recipe={"text": text})
    path = its.begin() / "a.txt"
    path.write_text(text)
    its.finish([path], {})


def test_another_machine_has_what_the_first_one_made(tmp_path: Path, url: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with stored(url, one, FAST):
        item(one, "done", "whole")
        (one / "2-images" / "half").mkdir()
        (one / "2-images" / "half" / "0.png").write_bytes(b"part")
        (one / "2-images" / "half" / ".1.png.partial").write_bytes(b"torn")
    assert LOCK not in there(url)
    with stored(url, two, FAST):
        assert files(two) == files(one) == there_without_lock(url)
        assert Workspace(two).item("2-images", "done", recipe={"text": "whole"}).done
        assert not Workspace(two).item("2-images", "done", recipe={"text": "other"}).done


def there_without_lock(url: str) -> dict[str, bytes]:
    return {name: data for name, data in there(url).items() if name != LOCK}


def test_what_is_made_goes_there_while_work_goes_on(tmp_path: Path, url: str) -> None:
    with stored(url, tmp_path, FAST):
        item(tmp_path, "done", "whole")
        ends = time.monotonic() + 20
        while "2-images/done/manifest.json" not in there(url) and time.monotonic() < ends:
            time.sleep(0.05)
        assert there(url)["2-images/done/a.txt"] == b"whole"


def test_what_was_made_before_a_failure_goes_there(tmp_path: Path, url: str) -> None:
    with pytest.raises(KeyError), stored(url, tmp_path, Times(push_s=60, settle_s=0)):
        item(tmp_path, "done", "whole")
        raise KeyError
    assert "2-images/done/manifest.json" in there(url) and LOCK not in there(url)


def test_each_sides_changes_are_taken(tmp_path: Path, url: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        with stored(url, root, FAST):
            (root / "journal.jsonl").write_text("first\n")
            (root / "checkpoint").write_text("old")
    with stored(url, one, FAST):
        (one / "journal.jsonl").write_text("first\nsecond\n")
        (one / "checkpoint").unlink()
        (one / "new").write_text("new")
    (two / "own").write_text("made where nobody was asked")
    with stored(url, two, FAST):
        assert (two / "journal.jsonl").read_text() == "first\nsecond\n"
        assert not (two / "checkpoint").exists() and (two / "new").exists()
    assert files(two) == there(url)
    assert (two / "own").exists()


def test_what_changed_on_both_sides_is_an_error_and_touches_nothing(
    tmp_path: Path, url: str
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        with stored(url, root, FAST):
            (root / "journal.jsonl").write_text("first\n")
    with stored(url, one, FAST):
        (one / "journal.jsonl").write_text("of one\n")
        (one / "more").write_text("more")
    (two / "journal.jsonl").write_text("of two\n")
    before = files(two), there(url)
    with (
        pytest.raises(WorkspaceError, match=r"1 file changed both here and in .*journal\.jsonl"),
        stored(url, two, FAST),
    ):
        pytest.fail("it began")
    assert (files(two), there(url)) == before


def test_equal_files_need_no_index(tmp_path: Path, url: str) -> None:
    with stored(url, tmp_path, FAST):
        item(tmp_path, "done", "whole")
    (tmp_path / INDEX).unlink()
    with stored(url, tmp_path, FAST):
        pass
    assert files(tmp_path) == there(url)


def test_a_store_that_was_emptied_takes_nothing_away(tmp_path: Path, url: str) -> None:
    with stored(url, tmp_path, FAST):
        item(tmp_path, "done", "whole")
    fs, base = fsspec.core.url_to_fs(url)
    fs.rm(base, recursive=True)
    before = files(tmp_path)
    with stored(url, tmp_path, FAST):
        assert files(tmp_path) == before
    assert there(url) == before


def down_after(storage: Storage, count: int) -> None:
    """The store is gone after this many files were sent or removed."""
    left = iter(range(count))

    def do(then: Callable[..., None], *args: Any) -> None:
        if next(left, None) is None:
            raise ConnectionError("gone away")
        then(*args)

    for name in ("put_file", "rm_file"):
        setattr(storage.fs, name, partial(do, getattr(storage.fs, name)))


@pytest.mark.parametrize("sent", range(10))
def test_a_store_that_goes_down_knows_whose_every_file_is(
    tmp_path: Path, url: str, sent: int
) -> None:
    """An item is made again by another recipe: equal names, other bytes, the old ones aside."""
    with stored(url, tmp_path, FAST):
        item(tmp_path, "x", "old")
    item(tmp_path, "x", "new")
    storage = Storage(url, tmp_path, FAST)
    storage._sign_lock()
    down_after(storage, sent)
    with suppress(WorkspaceError):
        storage.push()
    names = there(url)
    whose = {
        name: json.loads(names[name.replace("a.txt", "plan.json")])["recipe"]["text"]
        for name in names
        if name.endswith("a.txt")
    }
    assert {name: names[name].decode() for name in whose} == whose
    assert "old" in whose.values()
    assert (sent < 9) == (there_without_lock(url) != files(tmp_path))
    (again := Storage(url, tmp_path, FAST))._sign_lock()
    again.push()  # goes on
    assert there_without_lock(url) == files(tmp_path)


@pytest.mark.parametrize("sent", range(11))
def test_a_store_that_goes_down_never_has_a_manifest_without_its_files(
    tmp_path: Path, url: str, sent: int
) -> None:
    for name in ("x", "y", "z"):
        item(tmp_path, name, name)
    storage = Storage(url, tmp_path, FAST)
    storage._sign_lock()
    down_after(storage, sent)
    with (
        pytest.raises(WorkspaceError, match="gone away")
        if sent < len(files(tmp_path))
        else nullcontext()
    ):
        storage.push()
    names = there(url)
    for name in names:
        if name.endswith("manifest.json"):
            assert name.replace("manifest.json", "a.txt") in names
        if name.endswith("a.txt"):
            assert name.replace("a.txt", "plan.json") in names
    (again := Storage(url, tmp_path, FAST))._sign_lock()
    again.push()  # goes on
    assert there_without_lock(url) == files(tmp_path)


def test_a_lock_that_beats_is_heeded(tmp_path: Path, url: str) -> None:
    with stored(url, tmp_path / "one", FAST):
        with (
            pytest.raises(WorkspaceError, match=f"in use by process {os.getpid()} on "),
            stored(url, tmp_path / "two", FAST),
        ):
            pytest.fail("two have it")
        assert not (tmp_path / "two").exists()
    with stored(url, tmp_path / "two", FAST):
        pass


def test_a_dead_owners_lock_is_taken_and_no_sooner(tmp_path: Path, url: str) -> None:
    dead = Storage(url, tmp_path / "one", FAST)
    dead._sign_lock()
    began = time.monotonic()
    with stored(url, tmp_path / "two", FAST):
        assert time.monotonic() - began >= FAST.quiet_s


def test_of_many_who_take_a_dead_owners_lock_at_most_one_has_it(tmp_path: Path, url: str) -> None:
    Storage(url, tmp_path / "dead", FAST)._sign_lock()
    times = Times(beat_s=0.2, quiet_s=1, push_s=60, settle_s=0.5)
    had: list[int] = []

    def take(number: int) -> None:
        try:
            with stored(url, tmp_path / str(number), times):
                had.append(number)
                time.sleep(2)
        except WorkspaceError:
            pass

    threads = [threading.Thread(target=take, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(had) == 1


def test_who_was_taken_over_brings_nothing_any_more(tmp_path: Path, url: str) -> None:
    with (
        pytest.raises(WorkspaceError, match="was taken over by another process"),
        stored(url, tmp_path / "one", FAST),
    ):
        Storage(url, tmp_path / "two", FAST)._sign_lock()
        time.sleep(5 * FAST.beat_s)
        (tmp_path / "one" / "late").write_text("late")
    assert "late" not in there(url)
    assert LOCK in there(url)  # the other one's


def test_who_was_taken_over_between_two_beats_brings_nothing(tmp_path: Path, url: str) -> None:
    """As when the network comes back, and pushing is tried before the lock is looked at."""
    one = Storage(url, tmp_path / "one", Times(beat_s=600, quiet_s=1, settle_s=0))
    with one.held():
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "made").write_text("one")
        with stored(url, tmp_path / "two", FAST):
            (tmp_path / "two" / "made").write_text("two")
        with pytest.raises(WorkspaceError, match="was taken over by another process"):
            one.push()
    assert there(url) == {"made": b"two"}


def test_a_pull_that_was_stopped_leaves_no_change_of_this_side(tmp_path: Path, url: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    names = [f"{n}.txt" for n in range(12)]
    with stored(url, one, FAST):
        for name in names:
            (one / name).write_text("first")
    stopped = Storage(url, two, FAST)
    open_, left = stopped.fs.open, iter(range(6))

    def ends(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return open_(*args, **kwargs)

    stopped.fs.open = ends
    try:
        with pytest.raises(KeyboardInterrupt), stopped.held():
            stopped.pull()
    finally:
        del stopped.fs.open
    assert 0 < len(files(two)) < len(names)
    with stored(url, one, FAST):
        for name in names:
            (one / name).write_text("second")
    with stored(url, two, FAST):
        assert set(files(two).values()) == {b"second"}


def test_what_is_no_file_of_the_run_stays_in_the_store(tmp_path: Path) -> None:
    """As a program's own folder on a mounted bucket."""
    store = tmp_path / "store"
    for path in (store / ".trash" / "old", store / "2-images" / ".aside" / "x"):
        path.parent.mkdir(parents=True)
        path.write_text("of others")
    for _ in range(2):
        with stored(f"file://{store}", tmp_path / "run", FAST):
            pass
    assert not files(tmp_path / "run")
    assert (store / ".trash" / "old").exists() and (store / "2-images" / ".aside" / "x").exists()


def test_a_folder_that_is_a_link_is_refused_and_a_runs_folder_is_not(
    tmp_path: Path, url: str
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with stored(url, tmp_path / "run", FAST):
        (tmp_path / "run" / "a").write_text("a")
    assert there(url) == {"a": b"a"}
    (tmp_path / "more").mkdir()
    (tmp_path / "run" / "2-images").symlink_to(tmp_path / "more")
    with (
        pytest.raises(WorkspaceError, match="2-images is a link to a folder"),
        stored(url, tmp_path / "run", FAST),
    ):
        pytest.fail("it began")
    assert there(url) == {"a": b"a"}


@pytest.mark.parametrize("known", [[], {"a": 3}, {"a": {"here": [1, 1]}}, "a"])
def test_a_damaged_index_is_none(tmp_path: Path, url: str, known: object) -> None:
    with stored(url, tmp_path, FAST):
        (tmp_path / "a").write_text("a")
    (tmp_path / INDEX).write_text(json.dumps({"url": url, "files": known}))
    with stored(url, tmp_path, FAST):
        pass
    assert there(url) == files(tmp_path) == {"a": b"a"}


def test_a_lock_is_never_seen_half_written(tmp_path: Path) -> None:
    """Whoever brings files looks at it while it beats."""
    storage = Storage(f"file://{tmp_path / 'store'}", tmp_path / "run", FAST)
    storage._sign_lock()
    ended = threading.Event()

    def beat() -> None:
        while not ended.is_set():
            storage._sign_lock()

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        seen = {storage._lock().get("id") for _ in range(2_000)}
    finally:
        ended.set()
        beating.join()
    assert seen == {storage.owner["id"]}
    assert [path.name for path in (tmp_path / "store").iterdir()] == [LOCK]


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    storage = Storage(f"file://{root}", tmp_path / "run", FAST)
    storage._there = lambda: {"../outside": [1, ""]}  # type: ignore[method-assign]
    with pytest.raises(DataError):
        storage.pull()
    assert not (tmp_path / "outside").exists()


def test_stores_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match="storage: nosuch://b/run cannot be used"):
        Storage("nosuch://b/run", Path("x"), FAST)
    for wrong in ("runs/here", "s3://", "s3://key:secret@bucket/run", "s3://bucket/run?key=1"):
        with pytest.raises(ConfigError, match="storage: must") as told:
            parse_config(
                {"name": "x", "storage": wrong}, RunConfig, origin=Path("x"), folder=Path()
            )
        assert "secret" not in str(told.value)


@pytest.mark.parametrize("where", ["run", "run/store", "."])
def test_a_store_and_the_runs_folder_lie_apart(tmp_path: Path, where: str) -> None:
    with (
        pytest.raises(ConfigError, match="must lie apart"),
        stored(f"file://{tmp_path}/{where}", tmp_path / "run", FAST),
    ):
        pytest.fail("it began")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3:///run", "file://run/one", "x"])
def test_addresses_that_name_no_folder(url: str) -> None:
    with pytest.raises(ConfigError, match=r"storage: must be an address with a bucket and"):
        parse_config({"name": "x", "storage": url}, RunConfig, origin=Path("x.yaml"), folder=Path())


def test_an_engine_or_shards_need_a_folder_that_all_see(tmp_path: Path) -> None:
    raw = {"name": "x", "folder": str(tmp_path / "run"), "storage": "memory://b/run"}
    config = RunConfig.model_validate(raw)
    with pytest.raises(ConfigError, match="Leave storage out"):
        pipeline.shard(config, "2-images", 0, 2)
    with pytest.raises(ConfigError, match="Leave storage out"):
        pipeline.run(RunConfig.model_validate(raw | {"engine": {"kind": "ray"}}))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    with home(place) as address:
        yield address


@pytest.fixture(scope="module")
def fast_selma(place: Path) -> Iterator[Path]:
    """One that brings what it has made to the store at once."""
    before = "import selma.storage as s; s.Times.__init__.__defaults__ = (0.2, 2.0, 0.2, 0.1)"
    with warm_selma(place / "bin", before=before) as program:
        yield program


def test_a_run_that_is_killed_goes_on_elsewhere(
    place: Path, address: str, fast_selma: Path
) -> None:
    """Killed once in each stage that takes a while; the next machine has an empty folder."""
    whole = RunConfig.model_validate(settings(place, address, run="whole"))
    pipeline.run(whole)
    store = f"file://{place / 'store'}"
    for number, stage in enumerate(("1-prompts", "2-images", "3-experts", "5-scores", "")):
        raw = settings(place, address, run=f"machine-{number}") | {"storage": store}
        file = place / "killed.yaml"
        file.write_text(yaml.safe_dump(raw))
        running = subprocess.Popen([fast_selma, "run", str(file)], stdout=subprocess.DEVNULL)
        ends = time.monotonic() + 200
        while stage and running.poll() is None and time.monotonic() < ends:
            if list((place / "store" / stage).glob("**/[!.]*")):
                running.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        code_of_end = running.wait(200)
        assert code_of_end == (-signal.SIGKILL if stage else 0), stage
    last = tree(Path(raw["folder"]))
    assert last.pop(INDEX)
    assert last == tree(place / "store") == tree(Path(whole.run_folder))
    shown = json.loads((Path(raw["folder"]) / "run.json").read_text())
    assert "storage" not in shown["settings"]


def test_a_bucket_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server of S3's protocol on loopback, by the client that people use."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        url = "s3://bucket/runs/one"
        with stored(url, tmp_path / "one", FAST):
            for n in range(30):
                item(tmp_path / "one", f"x{n}", str(n))
        with stored(url, tmp_path / "two", FAST):
            assert files(tmp_path / "two") == files(tmp_path / "one") == there_without_lock(url)
            (tmp_path / "two" / "2-images" / "x0" / "a.txt").unlink()
            (tmp_path / "two" / "more").write_text("more")
            with (
                pytest.raises(WorkspaceError, match="in use by"),
                stored(url, tmp_path / "three", FAST),
            ):
                pytest.fail("two have it")
        # As consoles make folders.
        fsspec.filesystem("s3").call_s3("put_object", Bucket="bucket", Key="runs/one/", Body=b"")
        fsspec.filesystem("s3").call_s3(
            "put_object", Bucket="bucket", Key="runs/one/3-experts/", Body=b""
        )
        with stored(url, tmp_path / "one", FAST):
            assert files(tmp_path / "one") == files(tmp_path / "two")
        with (
            pytest.raises(WorkspaceError, match="s3://nosuch/run could not be"),
            stored("s3://nosuch/run", tmp_path / "four", FAST),
        ):
            pytest.fail("there is no such bucket")
    finally:
        server.stop()
