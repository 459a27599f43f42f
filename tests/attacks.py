"""What `make attack` counts: the injections of each row, and how many of them held.

    python tests/attacks.py [PART ...]     runs the parts, all by default; prints the table of them

A test counts by the fixture `attack`: what it injects before, what held after, so that a test that
fails leaves fewer held than injected. `make test` runs a part of each row, and counts the same.
SELMA_ATTACK_SEED=7 draws other moments, damages and cases; it is printed. Exits 1 if a row does not
hold.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HOME = Path(__file__).parent
SEED = int(os.environ.get("SELMA_ATTACK_SEED", "2"))
ROWS = os.environ.get("SELMA_ATTACK_ROWS")
"""The file that gets a session's rows; where it is given, nothing runs that injects nothing."""

PARTS: dict[str, tuple[str, ...]] = {
    "kills": (
        "pipeline/test_kill.py",
        "experts/test_rewarded_run.py",
        "applications/comparisons/test_killed.py",
    ),
    "processes": ("pipeline/test_processes.py", "pipeline/test_torchrun.py"),
    "command": ("pipeline/test_command.py", "test_start_and_end.py", "test_disk.py"),
    "starters": ("test_workspace.py",),
    "study": ("applications/study/test_server.py",),
    "damages": ("pipeline/test_damage.py",),
    "servers": (
        "pipeline/test_hostile_servers.py",
        "backbones/test_transport.py",
        "backbones/test_served_base.py",
    ),
    "readers": ("test_record_files.py", "test_outside_files.py"),
    "texts": (
        "test_image_modes.py",
        "test_secrets.py",
        "test_outside_texts.py",
        "test_yaml_files.py",
        "adapters/test_headers.py",
        "adapters/test_patterns.py",
    ),
}
"""Part of `make attack` → the files of its tests."""

Counts = dict[str, int]
Table = dict[tuple[str, int], Counts]
"""Row, seed → injections and held."""


class Attack:
    """Counts the injections of one test."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int, int]] = []
        """Row, seed, injections, held: plain values, which reports carry to the main process."""

    def injects(self, row: str, count: int = 1, *, seed: int = SEED) -> None:
        self.rows.append((row, seed, count, 0))

    def held(self, row: str, count: int = 1, *, seed: int = SEED) -> None:
        self.rows.append((row, seed, 0, count))

    @contextmanager
    def __call__(self, row: str, count: int = 1, *, seed: int = SEED) -> Iterator[None]:
        """`count` injections, which held if the block ends without an exception."""
        self.injects(row, count, seed=seed)
        yield
        self.held(row, count, seed=seed)


def numbers(few: int, many: int) -> list[Any]:
    """Parameters 0 to `many`, of which those from `few` on run under `make attack` alone."""
    return [
        pytest.param(number, marks=[pytest.mark.attack] if number >= few else [])
        for number in range(many)
    ]


def dice(*words: object) -> random.Random:
    """A source of its own for each case, by the seed."""
    return random.Random(" ".join(map(str, (SEED, *words))))


def added(table: Table, rows: Iterable[tuple[str, int, int, int]]) -> None:
    """Adds rows to the table in place."""
    for row, seed, injections, held in rows:
        counts = table.setdefault((row, seed), {"injections": 0, "held": 0})
        counts["injections"] += injections
        counts["held"] += held


def failing(table: Table) -> bool:
    return any(counts["held"] != counts["injections"] for counts in table.values())


def lines(table: Table) -> list[str]:
    """The table, one line a row."""
    width = max([len(row) for row, _ in table], default=3)
    shown = [f"{'row':{width}} {'injections':>10} {'held':>10} {'seed':>10}"]
    for (row, seed), counts in sorted(table.items()):
        fails = "" if counts["held"] == counts["injections"] else "  NOT HELD"
        shown.append(
            f"{row:{width}} {counts['injections']:10,} {counts['held']:10,} {seed:10}{fails}"
        )
    return shown


def save(table: Table, path: Path) -> None:
    """Appends the table's rows to the file."""
    with path.open("a", encoding="utf-8") as file:
        for (row, seed), counts in table.items():
            file.write(json.dumps([row, seed, counts["injections"], counts["held"]]) + "\n")


def main(parts: list[str]) -> int:
    unknown = sorted(set(parts) - PARTS.keys())
    if unknown:
        print(f"There is no part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
        return 2
    print(f"SELMA_ATTACK_SEED={SEED}", flush=True)
    table: Table = {}
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        environment = os.environ | {"SELMA_ATTACK_ROWS": str(path), "SELMA_ATTACK_SEED": str(SEED)}
        for part in parts or PARTS:
            files = [str(HOME / file) for file in PARTS[part]]
            command = [sys.executable, "-m", "pytest", "-n", "auto", "-m", "not gpu"]
            print(f"\n{part}", flush=True)
            code |= subprocess.run([*command, *files], env=environment).returncode != 0
        if path.exists():
            added(table, map(json.loads, path.read_text("utf-8").splitlines()))
    print("", *lines(table), sep="\n")
    return int(code or failing(table))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
