"""Work on a real Ray cluster: the bytes of a run without it, whatever dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from engines.threads import asked_by_threads
from pipeline.killing import finished, home, settings, tree
from ray.cluster_utils import Cluster

from selma import pipeline
from selma.config import RunConfig
from selma.config.engine import RayEngine
from selma.engines import on_ray
from selma.engines.engine import Worker
from selma.engines.hosting import Host
from selma.errors import ConfigError, DataError, WorkspaceError
from selma.workspace import IMAGES, Workspace

NODES = 2

pytestmark = pytest.mark.filterwarnings(  # Ray leaves one of its own open
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one core each, and a head without any."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(NODES):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker has this module
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Iterator[on_ray.OnRay]:
    with on_ray.opened(RayEngine(kind="ray", losses=1)) as engine:
        yield engine


def hosts(nodes: Iterable[Any]) -> list[int]:
    """Process ids of these nodes' workers."""
    processes = [node.all_processes.get("raylet", []) for node in nodes]
    raylets = {info.process.pid for of_node in processes for info in of_node}
    found = []
    for name in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            parent = int((name.parent / "stat").read_text().rpartition(")")[2].split()[1])
            if name.read_bytes().startswith(b"ray::Host") and parent in raylets:
                found.append(int(name.parent.name))
    return found


def times(factor: int) -> Callable[[int], tuple[int, int]]:
    """Tells who did it, too."""
    return lambda number: (number * factor, os.getpid())


def slow(seconds: float) -> Callable[[int], int]:
    def do(number: int) -> int:
        time.sleep(seconds)
        return number

    return do


def failing(kind: str) -> Callable[[int], int]:
    def do(number: int) -> int:
        if number == 2 and kind == "ours":
            raise DataError("the second is broken")
        if number == 2 and kind == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 2:
            raise ZeroDivisionError("a fault")
        return number

    return do


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nosuch.invalid:6379", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_named_at_once(address: str) -> None:
    """Before the others, which are in a cluster already."""
    began = time.monotonic()
    with (
        pytest.raises(ConfigError, match=rf"engine\.address: no cluster .* at {address}: "),
        on_ray.opened(RayEngine(kind="ray", address=address)),
    ):
        pytest.fail("it is there")
    assert time.monotonic() - began < on_ray.REACHED_S


def test_results_come_in_order_from_several_workers(engine: on_ray.OnRay) -> None:
    results = list(engine.map(Worker(times, (3,)), range(40)))
    assert [value for value, _ in results] == [3 * number for number in range(40)]
    assert len({who for _, who in results}) == NODES
    assert engine.counts == {"tasks": 40, "again": 0, "lost": 0}  # the first of these tests


def test_no_more_tasks_are_taken_than_workers_can_have(engine: on_ray.OnRay) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = engine.map(Worker(times, (1,)), tasks())
    assert next(results)[0] == 0
    assert len(taken) <= on_ray.AHEAD * NODES + 2
    results.close()  # type: ignore[attr-defined]


def test_several_threads_are_served_at_once(engine: on_ray.OnRay) -> None:
    factors, numbers = (2, 3, 5), range(9)
    answers = asked_by_threads(engine, times, factors, numbers)
    assert answers == {factor: [factor * n for n in numbers] for factor in factors}


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("ours", DataError, "^the second is broken$"),
        ("theirs", ZeroDivisionError, "a fault"),
        ("death", WorkspaceError, "2 workers were lost at the same piece of work"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_told_here(
    engine: on_ray.OnRay, kind: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        list(engine.map(Worker(failing, (kind,)), range(5)))
    assert [value for value, _ in engine.map(Worker(times, (2,)), range(3))] == [0, 2, 4]


def test_a_task_outlives_its_worker(cluster: Cluster, engine: on_ray.OnRay) -> None:
    before = engine.counts
    results = engine.map(Worker(slow, (0.3,)), range(12))
    assert next(results) == 0
    os.kill(hosts(cluster.worker_nodes)[0], signal.SIGKILL)
    assert list(results) == list(range(1, 12))
    counts = {name: count - before[name] for name, count in engine.counts.items()}
    assert counts["tasks"] == 12 and counts["lost"] == 1 and 1 <= counts["again"] <= on_ray.AHEAD


class Unable(Host):
    def __init__(self, threads: int) -> None:
        raise ImportError("there is no selma here")


class Older(Host):
    def ready(self) -> dict[str, str]:
        return {**super().ready(), "torch": "1.0"}


@pytest.mark.parametrize(
    ("host", "says"),
    [
        (Unable, "could not be started, one after another, the last by: .*no selma here"),
        (Older, r"a worker has others: torch 1\.0 there and \S+ here\. Install"),
    ],
)
def test_a_machine_that_cannot_work_is_told_and_not_waited_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, host: type[Host], says: str
) -> None:
    monkeypatch.setattr(on_ray, "Host", host)
    node = cluster.add_node(num_cpus=1)  # the others may have all that there is
    try:
        settings = RayEngine(kind="ray", losses=2, workers=1)
        with on_ray.opened(settings) as engine, pytest.raises(ConfigError, match=says):
            list(engine.map(Worker(times, (2,)), range(3)))
    finally:
        cluster.remove_node(node)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("ray")
    with home(folder) as address:
        yield folder, address


def config(place: tuple[Path, str], run: str, **engine: Any) -> RunConfig:
    folder, address = place
    raw: dict[str, Any] = settings(folder, address, run=run)
    raw["images"] |= {"choose": {"candidates": 2, "scorer": "toybox"}}
    raw["scores"] |= {"prompts": 40}
    if engine:
        raw["engine"] = engine
    return RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def alone(place: tuple[Path, str]) -> dict[str, str]:
    one = config(place, "alone")
    pipeline.run(one)
    return tree(Path(one.run_folder))


def test_a_run_whose_workers_and_node_die_has_the_same_bytes(
    cluster: Cluster, place: tuple[Path, str], alone: dict[str, str]
) -> None:
    """It goes on from what was made here, which is not made again."""
    begun = config(place, "killed")
    pipeline.prompts(begun)
    pipeline.shard(begun, IMAGES, 0, 2)
    there = finished(Path(begun.run_folder))
    one = config(place, "killed", kind="ray", losses=20)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES)]  # beside those of `engine`
    killed: list[str] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.5):
            images = len(list(Path(one.run_folder).rglob("*.png")))
            if not killed and images > 17 and (found := hosts(nodes)):
                os.kill(found[0], signal.SIGKILL)
                killed.append("worker")
            if len(killed) == 1 and images > 60:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                killed.append("node")

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        pipeline.run(one)
    finally:
        ended.set()
        thread.join()
        for node in nodes:
            cluster.remove_node(node)
    assert killed == ["worker", "node"]
    assert tree(Path(one.run_folder)) == alone
    assert there.items() <= finished(Path(one.run_folder)).items()
    lines = [line for line in Workspace(one.run_folder).read_journal() if line["stage"] == "engine"]
    counts: Any = lines[-1]
    assert counts["lost"] >= 1 and counts["again"] <= on_ray.AHEAD * counts["lost"]


def test_launched_processes_refuse_an_engine(
    place: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a",
                "MASTER_PORT": "1"}  # fmt: skip
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="but 2 were launched"):
        pipeline.run(config(place, "launched", kind="ray"))


def test_commands_of_one_process_refuse_an_engine(place: tuple[Path, str]) -> None:
    with (
        pytest.raises(ConfigError, match="engine"),
        pipeline.opened(config(place, "other", kind="ray"), make=[]),
    ):
        pass
