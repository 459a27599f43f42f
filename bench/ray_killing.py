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
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from ray.cluster_utils import Cluster

from selma.engines.on_ray import AHEAD
from selma.workspace import Workspace

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
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = Path(tempfile.mkdtemp(prefix="selma-ray-"))
    try:
        started = time.monotonic()
        assert finished(begun(root / "peace")) == 0
        peace = time.monotonic() - started
        killer = Killer(kills, random.Random(seed), every)
        started = time.monotonic()
        sound = killer.until_finished(root / "killed")
        spent = time.monotonic() - started
        one, other = tree(root / "peace"), tree(root / "killed")
        differing = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
        tasks, again, lost = (killer.counts[name] for name in ("tasks", "again", "lost"))
        print(
            f"{len(one)} files, {len(differing)} differ {differing[:3] or ''}; "
            f"{killer.workers} workers and {killer.nodes} nodes killed, {lost} lost at work; "
            f"{tasks} tasks, {again} done again (at most {AHEAD * lost}); "
            f"{spent:.0f} s, {peace:.0f} s in peace and without an engine"
        )
        sound = sound and not differing and again <= AHEAD * lost and killer.done
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.exit(0 if sound else 1)


def begun(folder: Path, **engine: Any) -> subprocess.Popen[bytes]:
    """A run of its own process."""
    file = folder.with_suffix(".yaml")
    more = {"engine": engine} if engine else {}
    file.write_text(yaml.safe_dump({**SETTINGS, **more}))
    command = [sys.executable, "-m", "selma", "run", str(file), "--folder", str(folder)]
    with open(folder.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finished(run: subprocess.Popen[bytes]) -> int:
    return run.wait()


class Killer:
    """Kills workers' processes and nodes while runs are at work, until enough were."""

    def __init__(self, kills: int, moments: random.Random, every: float) -> None:
        self.kills, self.moments, self.every = kills, moments, every
        self.workers = self.nodes = 0
        self.counts: Counter[str] = Counter()

    @property
    def done(self) -> bool:
        return self.workers + self.nodes >= self.kills

    def until_finished(self, folder: Path) -> bool:
        """Run, and once more if it ended before all were killed. Whether no run failed."""
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        live = [cluster.add_node(num_cpus=1) for _ in range(2)]
        try:
            for _ in range(10):
                shutil.rmtree(folder, ignore_errors=True)
                run = begun(folder, kind="ray", address=cluster.address, losses=100)
                while run.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        run.wait(self.moments.uniform(0.2, 1.8) * self.every)
                        break
                    if not self.done:
                        self.kill(cluster, live)
                if run.returncode:
                    print(folder.with_suffix(".log").read_text()[-2000:])
                    return False
                for line in Workspace(folder).read_journal():
                    if line.get("event") == "engine":
                        names = ("tasks", "again", "lost")
                        self.counts.update({name: int(line.get(name, 0)) for name in names})
                if self.done:
                    return True
            return False
        finally:
            cluster.shutdown()

    def kill(self, cluster: Cluster, live: list[Any]) -> None:
        if (self.workers + self.nodes) % 4 == 3:
            node = live.pop(self.moments.randrange(len(live)))
            cluster.remove_node(node, allow_graceful=False)
            live.append(cluster.add_node(num_cpus=1))
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
