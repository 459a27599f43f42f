"""What `selma generate` takes where other programs keep the processors busy.

    .venv/bin/python bench/crowded.py

One process a processor computes without end beside it. Threads of torch that wait for each other
spin at first; by default so long that they take the processor from those they wait for. The
command's own number of spins is compared with libgomp's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from turns import in_turn

from selma.cli import SPINS

LIBGOMP = "300000"
"""Its own number of spins where the environment says nothing."""


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    images: Annotated[int, typer.Option(min=1)] = 4,
    idle: Annotated[bool, typer.Option("--idle", help="Nothing runs beside it.")] = False,
) -> None:
    """Print seconds and their ratio."""
    sides = {f"{spins} spins": partial(generated, spins, images) for spins in (SPINS, LIBGOMP)}
    with busy(0 if idle else os.cpu_count() or 1):
        in_turn(sides, rounds=rounds, warm=False, clock=perf_counter).show(
            "generating, idle" if idle else "crowded"
        )


def generated(spins: str, images: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "selma", "generate", "two red dogs", "-n", str(images),
             "--out", str(Path(folder) / "dogs.png")],
            env=os.environ | {"GOMP_SPINCOUNT": spins},
            capture_output=True,
            check=True,
        )  # fmt: skip


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()


if __name__ == "__main__":
    typer.run(main)
