"""What it costs to hold finished files against their manifests: 100,000 small ones, and one large.

    python bench/verifying.py [--items 1000] [--files 100] [--bytes 4096]
    python bench/verifying.py --run configs/toybox.yaml
    python bench/verifying.py --status runs/toybox       # B11

Times of an item's `done`: by size alone, with each file read, and asked again in the same process;
and the rate of a file of 1 GB. The files lie in the system's cache, as those of a run do that is
used the same day. With --run: a run from nothing, and the same command once more. With --status:
seconds until `selma status` of a finished run has ended.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from selma import manifests
from selma.workspace import IMAGES, Item, Workspace

LARGE = 10**9


def build(folder: Workspace, items: int, files: int, size: int) -> list[Callable[[], Item]]:
    """Items with files of other bytes each, and what asks for each anew."""
    asked: list[Callable[[], Item]] = []
    for number in range(items):
        recipe = {"number": number}
        item = folder.item(IMAGES, f"{number:05d}", recipe=recipe)
        path = item.begin()
        for each in range(files):  # not by write_bytes, which would wait for the disk each time
            (path / f"{each:05d}.png").write_bytes(os.urandom(size))
        item.finish(path.glob("*.png"), {})
        asked.append(partial(folder.item, IMAGES, f"{number:05d}", recipe=recipe))
    return asked


def seconds(asked: list[Callable[[], Item]]) -> float:
    started = time.perf_counter()
    assert all(ask().done for ask in asked)
    return time.perf_counter() - started


RUN = """
import sys
from selma import load_config, run
from selma.manifests import sizes_only
from contextlib import nullcontext
with sizes_only() if sys.argv[3] == "sizes" else nullcontext():
    run(load_config(sys.argv[1], folder=sys.argv[2]))
"""


def run_seconds(config: Path, folder: Path, how: str) -> float:
    """CPU seconds of a run in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", RUN, str(config), str(folder), how], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def of_run(config: Path) -> None:
    """A run from nothing and the same command on the finished run, both ways."""
    with tempfile.TemporaryDirectory() as place:
        for what in ("a run", "the finished run again"):
            sizes, contents = (
                run_seconds(config, Path(place) / how, how) for how in ("sizes", "contents")
            )
            print(
                f"{what}: {contents:.1f} s of CPU, {sizes:.1f} s by size alone "
                f"({contents / sizes:.3f} times)"
            )


def of_status(run: Path) -> None:
    """What a user waits for, five times."""
    found = []
    # Compiled modules are kept, as they are wherever a package was installed.
    env = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(5):
        started = time.perf_counter()
        command = [sys.executable, "-m", "selma", "status", str(run)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
        found.append(time.perf_counter() - started)
    rows = said.splitlines()[1:]
    undone = sum("nothing" not in row for row in rows)
    print(
        f"status: {sorted(found)[2]:.2f} s, {min(found):.2f} at best; {undone} of {len(rows)} rows "
        "are not done"
    )


def of_items(items: int, files: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        asked = build(Workspace(Path(place)), items, files, size)
        manifests.forget()
        with manifests.sizes_only():
            print(f"{items * files:,} files of {size} bytes, by size: {seconds(asked):.2f} s")
        manifests.forget()
        print(f"by content, the first time in a process: {seconds(asked):.2f} s")
        print(f"by content, asked again: {seconds(asked):.2f} s")
        large = Path(place) / "large.safetensors"
        large.write_bytes(bytes(LARGE))
        started = time.perf_counter()
        manifests.remembered_sha256(large)
        print(f"one large file: {LARGE / 2**20 / (time.perf_counter() - started):,.0f} MiB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, help="settings of a run, to be made both ways instead")
    parser.add_argument("--status", type=Path, help="a finished run, to be looked at instead")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--bytes", type=int, default=4096)
    options = parser.parse_args()
    if options.status is not None:
        of_status(options.status)
    elif options.run is not None:
        of_run(options.run)
    else:
        of_items(options.items, options.files, options.bytes)


if __name__ == "__main__":
    main()
