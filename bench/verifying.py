"""What it costs to hold finished files against their manifests: 100,000 small ones, and one large.

    python bench/verifying.py [--items 1000] [--files 100] [--bytes 4096]

Times of an item's `done`: by size alone, with each file read, and asked again in the same process;
and the rate of a file of 1 GB. The files lie in the system's cache, as those of a run do that is
used the same day.
"""

from __future__ import annotations

import argparse
import os
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--bytes", type=int, default=4096)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        asked = build(Workspace(Path(place)), options.items, options.files, options.bytes)
        count = options.items * options.files
        manifests.forget()
        with manifests.sizes_only():
            print(f"{count:,} files of {options.bytes} bytes, by size: {seconds(asked):.2f} s")
        manifests.forget()
        print(f"by content, the first time in a process: {seconds(asked):.2f} s")
        print(f"by content, asked again: {seconds(asked):.2f} s")
        large = Path(place) / "large.safetensors"
        large.write_bytes(bytes(LARGE))
        started = time.perf_counter()
        manifests.remembered_sha256(large)
        print(f"one large file: {LARGE / 2**20 / (time.perf_counter() - started):,.0f} MiB/s")


if __name__ == "__main__":
    main()
