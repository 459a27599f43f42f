"""Kills every stage of a tiny run at random moments, and compares it with one left in peace.

    python tests/pipeline/killing.py FOLDER --kills 20 --seed 7

One warm process has imported the model libraries and forks a child for each start, so that a start
costs milliseconds. Prints one JSON object: kills and starts of each stage, and every fault.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipeline.server import serving

if TYPE_CHECKING:
    from selma.config import RunConfig

# Where times and process ids live; everything else must be equal to the byte.
NOT_COMPARED = ("journal.jsonl", ".lock")


def settings(folder: Path, address: str, *, run: str) -> dict[str, object]:
    """The smallest run that has more than one of everything."""
    os.environ["SELMA_TEST_KEY"] = "none"
    backend = {
        "kind": "openai",
        "model": "captions",
        "base_url": address,
        "key_variable": "SELMA_TEST_KEY",
    }
    return {
        "name": "killed",
        "folder": str(folder / run),
        "seed": 5,
        "base": {"model": str(folder / "base"), "device": "cpu"},
        "prompts": {
            "skills": ["coco", "whoops"],
            "per_skill": 8,
            "asked_per_reply": 6,
            "backend": backend,
        },
        "images": {"steps": 2, "guidance": 2.0, "batch_size": 2},
        "experts": {
            "adapter": {"kind": "lora", "rank": 2},
            "steps": 8,
            "batch_size": 2,
            "precision": "fp32",
            "checkpoint_every": 2,
        },
        "scores": {"prompts": 6, "resamples": 50},
        "report": {"grid_prompts": 2, "training_pairs": 2},
    }


@contextmanager
def home(folder: Path) -> Iterator[str]:
    """The folder with the tiny base in it; yields the address of a language model."""
    build(folder / "base")
    with serving() as address:
        yield address


@contextmanager
def tiny_run(folder: Path, *, run: str) -> Iterator[RunConfig]:
    """The settings of the smallest run, with all that it needs."""
    from selma.config import RunConfig

    with home(folder) as address:
        yield RunConfig.model_validate(settings(folder, address, run=run))


def tree(root: Path) -> dict[str, str]:
    """File → sha256 of its bytes. The report shows times, so that only its files' names count."""
    return {
        path.relative_to(root).as_posix(): ""
        if "6-report" in path.parts
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(NOT_COMPARED)
    }


def finished(root: Path) -> dict[Path, tuple[int, int]]:
    """All that is never made again: pictures, and the files of finished items → inode, time.

    The report is: it shows how long the run took, so that each run writes it anew.
    """
    files = {path for path in root.rglob("*.png") if not path.name.startswith(".")}
    for manifest in root.rglob("manifest.json"):
        names = json.loads(manifest.read_bytes())["files"]
        files |= {manifest, *(manifest.parent / name for name in names)}
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in files
        if "6-report" not in path.parts
    }


def start(work: Callable[[], object], log: Path) -> int:
    """The process id of a child that does the work; what it says goes to the log."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        out = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, *, after_s: float | None = None) -> int | None:
    """The child's exit code; None if it was killed `after_s` seconds from now."""
    deadline = time.monotonic() + (after_s if after_s is not None else 600)
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    if after_s is None:
        raise TimeoutError("a stage that nobody disturbed did not end")
    return None


class Killing:
    """One stage after the other: in peace in one folder, under fire in the other."""

    def __init__(self, folder: Path, *, kills: int, seed: int, address: str) -> None:
        self.folder, self.kills = folder, kills
        self.random = random.Random(seed)
        self.address = address
        self.log = folder / "log.txt"
        self.faults: list[str] = []
        self.counts: dict[str, dict[str, int]] = {}

    def work(self, stage: str, run: str) -> Callable[[], object]:
        from selma import pipeline
        from selma.config import RunConfig
        from selma.finished import COMMANDS

        config = RunConfig.model_validate(settings(self.folder, self.address, run=run))
        return lambda: getattr(pipeline, COMMANDS[stage])(config)

    def stage(self, stage: str) -> None:
        began = time.monotonic()
        if ended(start(self.work(stage, "peace"), self.log)) != 0:
            self.faults.append(f"{stage} fails undisturbed; see {self.log}")
            return
        lasts = time.monotonic() - began
        root = self.folder / "fire"
        killed = starts = 0
        while killed < self.kills or not (self.folder / "fire" / stage).exists():
            shutil.rmtree(root / stage, ignore_errors=True)
            code: int | None = None
            undisturbed = True
            while code is None:  # until it ends by itself
                before, began = finished(root), time.monotonic()
                limit = self.random.uniform(0, lasts) if killed < self.kills else None
                code = ended(start(self.work(stage, "fire"), self.log), after_s=limit)
                starts += 1
                killed += code is None
                if code == 0 and undisturbed:
                    lasts = min(lasts, time.monotonic() - began)  # the first start was slower
                undisturbed = False
                self.compare(stage, before, finished(root))
            if code != 0:
                self.faults.append(f"{stage} fails after {killed} kills; see {self.log}")
                break
            peace, fire = tree(self.folder / "peace"), tree(root)
            different = sorted(
                name for name in {*peace, *fire} if peace.get(name) != fire.get(name)
            )
            self.faults += [f"{stage}: {name} differs" for name in different]
        self.counts[stage] = {"kills": killed, "starts": starts}

    def compare(
        self, stage: str, before: dict[Path, tuple[int, int]], after: dict[Path, tuple[int, int]]
    ) -> None:
        again = [path for path, state in before.items() if after.get(path) != state]
        self.faults += [
            f"{stage}: {path.relative_to(self.folder)} was made again" for path in again
        ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", required=True)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with serving() as address:
        warm()
        one = Killing(given.folder, kills=given.kills, seed=given.seed, address=address)
        if ended(start(lambda: build(given.folder / "base"), one.log)) != 0:
            one.faults.append(f"the tiny base cannot be built; see {one.log}")
        for stage in given.stages:
            if not one.faults:
                one.stage(stage)
    print(json.dumps({"seed": given.seed, "stages": one.counts, "faults": one.faults}))


def build(folder: Path) -> None:
    import tiny

    tiny.build("sd1", folder)


def warm() -> None:
    """Imports what the children need, and computes nothing: no thread may exist when forking."""
    gc.disable()
    import accelerate  # noqa: F401
    import openai.resources.chat  # noqa: F401
    import peft  # noqa: F401
    import tiny  # noqa: F401
    from diffusers import DDPMScheduler, StableDiffusionPipeline  # noqa: F401
    from diffusers.optimization import get_scheduler  # noqa: F401

    import selma.adapters.table
    import selma.backbones.drawing
    import selma.backbones.language.served
    import selma.capacity
    import selma.experts.encoding
    import selma.experts.memory
    import selma.experts.objectives
    import selma.experts.skills
    import selma.images.generating
    import selma.images.guides.applying
    import selma.merged.merging
    import selma.merged.methods
    import selma.merged.searching
    import selma.pipeline
    import selma.prompts.writing
    import selma.report.page
    import selma.scores.hps
    import selma.scores.scoring
    import selma.toybox.judges  # noqa: F401

    gc.freeze()  # what is there stays: no child goes through it
    gc.enable()


if __name__ == "__main__":
    main()
