"""A run on a Ray cluster of two nodes, whose workers and nodes are killed, beside one in peace.

    .venv/bin/python bench/ray_killing.py --kills 10

The cluster is Ray's own local one (ray.cluster_utils): two nodes of one core each on this machine.
At random moments a worker's process, or every fourth time a whole node, is killed; a node comes
back. The run's files must be equal to the byte to those of the same settings without an engine, and
no more tasks may be done again than the lost workers had. Exits with 1 otherwise.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import ray
import typer
from ray.cluster_utils import Cluster

from selma import pipeline
from selma.config import RunConfig
from selma.config.engine import LocalEngine, RayEngine
from selma.engines import on_ray
from selma.engines.on_ray import AHEAD, OnRay

SETTINGS: dict[str, Any] = {
    "name": "killed",
    "base": {"model": "toybox", "device": "cpu"},
    "prompts": {
        "skills": ["toybox_count", "toybox_coco"],
        "per_skill": 24,
        "backend": {"kind": "local", "model": "smollm2", "batch_size": 8},
        "asked_per_reply": 2,
        "temperature": 1.5,
        "max_new_tokens": 120,
        "novelty": {"threshold": 0.93},
        "contamination_threshold": 0.93,
        "lexicon": "toybox",
    },
    "images": {
        "steps": 8,
        "guidance": 3.0,
        "batch_size": 4,
        "choose": {"candidates": 4, "questions": "toybox", "scorer": "toybox"},
    },
    "experts": {
        "adapter": {"kind": "lora", "rank": 16},
        "steps": 60,
        "batch_size": 8,
        "learning_rate": 4.0e-4,
        "latents": "mode",
        "precision": "fp32",
        "checkpoint_every": 10,
    },
    "scores": {"prompts": 64},
}
PASSED_OVER = {"journal.jsonl", ".lock"}
"""Files that hold times."""


def main(
    kills: Annotated[int, typer.Option(help="How many processes and nodes are killed.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    every: Annotated[float, typer.Option(help="Mean seconds between two kills.")] = 15.0,
) -> None:
    """Run both, and compare."""
    root = Path(tempfile.mkdtemp(prefix="selma-ray-"))
    try:
        started = time.monotonic()
        pipeline.run(settings(root / "peace", LocalEngine()))
        peace = time.monotonic() - started
        killer, engine, spent = killed_run(root / "killed", kills, seed, every)
        one, other = tree(root / "peace"), tree(root / "killed")
        differing = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
        again = engine.handed_out - engine.distinct
        print(
            f"{len(one)} files, {len(differing)} differ {differing[:3] or ''}; "
            f"{killer.workers} workers and {killer.nodes} nodes killed, {engine.lost} hosts lost; "
            f"{engine.distinct} tasks, {again} done again (at most {AHEAD * engine.lost}); "
            f"{spent:.0f} s, {peace:.0f} s in peace and without an engine"
        )
        sound = not differing and again <= AHEAD * engine.lost and killer.done
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.exit(0 if sound else 1)


def settings(folder: Path, engine: LocalEngine | RayEngine) -> RunConfig:
    return RunConfig.model_validate({**SETTINGS, "folder": folder, "engine": engine})


class Counting(OnRay):
    """Counts the tasks that were asked for."""

    distinct = 0

    def _ask(self, task: Any) -> None:
        self.distinct += 1
        super()._ask(task)


def killed_run(folder: Path, kills: int, seed: int, every: float) -> tuple[Killer, Counting, float]:
    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    found: list[Counting] = []

    def opened(ray_module: Any, asked: RayEngine) -> Counting:
        found.append(Counting(ray_module, asked))
        return found[-1]

    on_ray.OnRay = opened  # type: ignore[assignment,misc]
    killer = Killer(cluster, nodes, kills, random.Random(seed), every)
    killer.start()
    started = time.monotonic()
    try:
        asked = RayEngine(kind="ray", cpus=float(threads), losses=100)
        while not killer.done:  # a run that ends before all were killed is made once more
            shutil.rmtree(folder, ignore_errors=True)
            pipeline.run(settings(folder, asked))
            if found and killer.done:
                break
    finally:
        killer.ended.set()
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    return killer, found[-1], time.monotonic() - started


class Killer(threading.Thread):
    """Kills workers' processes and nodes until enough were."""

    def __init__(
        self, cluster: Cluster, nodes: list[Any], kills: int, moments: random.Random, every: float
    ) -> None:
        super().__init__(daemon=True)
        self.cluster, self.live, self.kills = cluster, nodes, kills
        self.moments, self.every = moments, every
        self.workers = self.nodes = 0
        self.ended = threading.Event()

    @property
    def done(self) -> bool:
        return self.workers + self.nodes >= self.kills

    def run(self) -> None:
        while not self.done and not self.ended.wait(self.moments.uniform(0.2, 1.8) * self.every):
            if (self.workers + self.nodes) % 4 == 3:
                node = self.live.pop(self.moments.randrange(len(self.live)))
                self.cluster.remove_node(node, allow_graceful=False)
                self.live.append(self.cluster.add_node(num_cpus=1))
                self.nodes += 1
            elif hosts := hosts_alive():
                os.kill(self.moments.choice(hosts), signal.SIGKILL)
                self.workers += 1


def hosts_alive() -> list[int]:
    """Process ids of workers."""
    found = []
    for name in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if name.read_bytes().startswith(b"ray::Host"):
                found.append(int(name.parent.name))
    return found


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in PASSED_OVER and "6-report" not in path.parts
    }


if __name__ == "__main__":
    typer.run(main)
