"""Killed at any moment, a run goes on: same bytes in the end, and nothing finished made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attacks import SEED, Attack

from selma.workspace import STAGES


def killed(folder: Path, *, kills: int, seed: int) -> None:
    print(f"python tests/pipeline/killing.py FOLDER --kills {kills} --seed {seed}")
    program = str(Path(__file__).parent / "killing.py")
    options = ["--kills", str(kills), "--seed", str(seed), "--stages", *STAGES]
    done = subprocess.run(
        [sys.executable, program, str(folder), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    log = (folder / "log.txt").read_text(errors="replace")[-3000:]
    assert not found["faults"], f"seed {seed}: {found['faults']}\n{log}"
    assert {stage: n["kills"] for stage, n in found["stages"].items()} == dict.fromkeys(
        STAGES, kills
    )


def test_a_few_kills_of_each_stage(tmp_path: Path, attack: Attack) -> None:
    with attack("kill -9: a stage", 3 * len(STAGES)):
        killed(tmp_path, kills=3, seed=SEED)


@pytest.mark.kill
@pytest.mark.parametrize("number", range(1, 5))  # several, for several cores
def test_many_kills_of_each_stage(tmp_path: Path, number: int, attack: Attack) -> None:
    with attack("kill -9: a stage", 18 * len(STAGES)):
        killed(tmp_path, kills=18, seed=100 * SEED + number)
