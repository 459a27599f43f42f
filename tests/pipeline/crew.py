"""One tiny run made by one process, and again by several that work together.

    python tests/pipeline/crew.py FOLDER --kills 4 --seed 7

A warm process forks them, with what launchers set in the environment, so that a start costs
milliseconds. Prints one JSON object: how the runs differ, who did what, and every fault.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipeline.killing import build, ended, settings, start, tree, warm
from pipeline.server import serving

PROCESSES = 2


def config(folder: Path, address: str, run: str, **experts: object) -> dict[str, object]:
    """More than one of everything, checkpoints and merge weights chosen on dev prompts."""
    raw = settings(folder, address, run=run)
    raw["experts"] |= {"checkpoint_every": 4, "select": "dev", "learning_rate": 0.1} | experts  # type: ignore[operator]
    raw["scores"] |= {"dev_prompts": 3, "prompts": 6}  # type: ignore[operator]
    raw["images"] |= {"choose": {"candidates": 2}}  # type: ignore[operator]
    raw["merged"] = {"search": {"trials": 3, "spread": 2.0}}
    return raw


def launched(
    number: int, port: int, work: Callable[[], object], log: Path, *, stop_after: int | None = None
) -> Callable[[], object]:
    """The work of one of several processes; notes which part of what it took. With `stop_after` the
    last of them gets SIGTERM when it has so many steps' gradients."""

    def child() -> None:
        place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": PROCESSES}
        os.environ |= {name: str(value) for name, value in place.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        from selma import processes

        whole = processes.share

        def share(jobs: list[object]) -> object:
            mine = whole(jobs)
            with open(log.with_name(f"shares-{number}.jsonl"), "a") as file:
                file.write(json.dumps([len(mine), len(jobs)]) + "\n")
            return mine

        average, steps = processes.average_gradients, []

        def averaged(parameters: list[object]) -> None:
            average(parameters)  # type: ignore[arg-type]
            steps.append(len(steps) + 1)
            if number == PROCESSES - 1 and steps[-1] == stop_after:
                signal.raise_signal(signal.SIGTERM)

        processes.share = share  # type: ignore[assignment]
        processes.average_gradients = averaged  # type: ignore[assignment]
        work()

    return child


class Crew:
    """Several processes in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"

    def begin(self, work: Callable[[], object], *, stop_after: int | None = None) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (self.folder / "crew").mkdir(exist_ok=True)
        return [
            start(
                launched(n, port, work, self.folder / "crew" / "log", stop_after=stop_after),
                self.log,
            )
            for n in range(PROCESSES)
        ]

    def codes(
        self, work: Callable[[], object], *, stop_after: int | None = None
    ) -> list[int | None]:
        return [ended(pid) for pid in self.begin(work, stop_after=stop_after)]

    def shares(self) -> list[list[list[int]]]:
        found = []
        for number in range(PROCESSES):
            path = self.folder / "crew" / f"shares-{number}.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            found.append([json.loads(line) for line in lines])
            path.unlink(missing_ok=True)
        return found

    def killed(
        self, work: Callable[[], object], root: Path, *, who: int, after_s: float, patience_s: float
    ) -> str:
        """Kills one of them some time after they began to work; what became of the others.

        patience_s: how long the others may be at what each does by itself before they look around.
        """
        pids = self.begin(work)
        deadline = time.monotonic() + patience_s
        while _holder(root) != pids[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        own = ended(pids[who], after_s=after_s)
        others = [pid for pid in pids if pid != pids[who]]
        codes = [ended(pid, after_s=patience_s) for pid in others]
        if own is not None:  # the main process may still be at the report
            return "was finished" if {own, *codes} == {0} else "failed"
        # The main process writes the report alone: with the scores the others are through.
        if codes == [0] * len(codes) and (root / "5-scores/scorecard/manifest.json").exists():
            return "was finished"
        return "did not end" if None in codes else "ended" if all(codes) else "went on"


def _holder(root: Path) -> int | None:
    try:
        return int(json.loads((root / ".lock").read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return None


def differences(one: Path, other: Path, *, without: tuple[str, ...] = ()) -> list[str]:
    left, right = tree(one), tree(other)
    names = {n for n in {*left, *right} if not n.startswith(without or ("/",))}
    return sorted(name for name in names if left.get(name) != right.get(name))


def generated_by_conditions(crew: Crew) -> dict[str, object]:
    """`selma control generate` by one process, and by several on a copy of what it starts from."""
    from selma.applications.control import pipeline as control_pipeline
    from selma.applications.control.settings import ControlRun

    one, other = (crew.folder / name for name in ("control", "control-together"))
    control = {
        "data": {"source": {"kind": "toybox", "train": 2, "val": 6}},
        "training": {"steps": 1, "batch_size": 2},
        "generation": {"steps": 2, "guidance": 3.0, "batch_size": 2},
    }
    base = {"model": str(crew.folder / "base"), "device": "cpu"}

    def work(folder: Path, *commands: str) -> Callable[[], object]:
        raw = {"name": "conditions", "folder": str(folder), "base": base, "control": control}
        config = ControlRun.model_validate(raw)
        return lambda: [getattr(control_pipeline, command)(config) for command in commands]

    codes = [ended(start(work(one, "prepare", "train"), crew.log))]
    shutil.copytree(one, other)
    codes += [ended(start(work(one, "generate"), crew.log)), *crew.codes(work(other, "generate"))]
    return {"codes": codes, "differs": differences(one, other), "shares": crew.shares()}


def few_at_once() -> None:
    """Judges answer four prompts at a time, so that six are enough to be shared."""
    from selma import row_files

    row_files.CHUNK = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder, dice = given.folder, random.Random(given.seed)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"seed": given.seed}

    def work(run: str, stage: str = "run", **experts: object) -> Callable[[], object]:
        from selma import pipeline
        from selma.config import RunConfig

        one = RunConfig.model_validate(config(folder, address, run, **experts))
        return lambda: getattr(pipeline, stage)(one)

    with serving() as address:
        warm()
        few_at_once()
        crew = Crew(folder)
        ended(start(lambda: build(folder / "base"), crew.log))
        began = time.monotonic()
        found["alone"] = ended(start(work("alone"), crew.log))
        lasts = time.monotonic() - began

        found["together"] = crew.codes(work("together"))
        found["together differs"] = differences(folder / "alone", folder / "together")
        found["shares"] = crew.shares()

        for stage in ("1-prompts", "2-images"):
            shutil.copytree(folder / "alone" / stage, folder / "batch" / stage)
        found["stopped"] = crew.codes(work("batch", "experts", spread="batch"), stop_after=2)
        found["stopped at"] = [p.name for p in folder.glob("batch/3-experts/*/checkpoints/*")]
        found["batch"] = crew.codes(work("batch", "experts", spread="batch"))
        found["batch shares"] = crew.shares()

        found["control"] = generated_by_conditions(crew)

        before = len(crew.log.read_bytes())
        found["uneven"] = crew.codes(work("batch", "experts", spread="batch", batch_size=3))
        found["uneven says"] = crew.log.read_bytes()[before:].decode(errors="replace")[-9000:]

        outcomes: list[str] = []
        unequal: list[str] = []
        while len(outcomes) < given.kills:
            outcome = crew.killed(
                work("fire"),
                folder / "fire",
                who=dice.randrange(PROCESSES),
                after_s=dice.uniform(0, lasts),
                patience_s=max(120, 10 * lasts),  # on a busy machine all takes longer
            )
            if outcome == "was finished":  # too late to count; the next ones get a new run
                crew.codes(work("fire"))  # its main process may have been at the report
                unequal += differences(folder / "alone", folder / "fire")
                shutil.rmtree(folder / "fire")
            else:
                outcomes.append(outcome)
        found["kills"] = outcomes
        found["after kills"] = crew.codes(work("fire"))
        found["fire differs"] = unequal + differences(folder / "alone", folder / "fire")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
