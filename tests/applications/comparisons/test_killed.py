"""A comparison that is killed again and again ends in the tables of one left in peace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacks import Attack
from pipeline.killing import home, settings, tree

MOMENTS: dict[str, Callable[[Path], bool]] = {
    "prompts": lambda run: any(run.glob("1-prompts/*/*/replies*")) or (run / "2-images").exists(),
    "images": lambda run: any(run.glob("2-images/*/*/train/*.png")),
    "experts": lambda run: any(run.glob("3-experts/coco/*/checkpoints/*/state.json")),
    "a merge": lambda run: any(run.glob("4-merged/*/manifest.json")),
    "dev images": lambda run: any(run.glob("5-scores/images/*-dev-*/*/*.png")),
    "dev answers": lambda run: any(run.glob("5-scores/answers/dev-*/*/answers.jsonl")),
    "benchmark images": lambda run: any(run.glob("5-scores/images/*-test-*/*/*.png")),
    "a scorecard": lambda run: any(run.glob("5-scores/scorecard-*/*/manifest.json")),
}
"""Words → whether a comparison's folder has come so far."""


def comparison(home: Path, address: str, run: str) -> dict[str, Any]:
    shared = settings(home, address, run="unused")
    for name in ("name", "folder", "seed"):
        shared.pop(name)
    return {
        "name": "little",
        "folder": str(home / run),
        "settings": shared,
        "rows": [
            {"name": "base", "model": "base"},
            {"name": "coco", "model": "expert", "settings": {"prompts": {"skills": ["coco"]}}},
            {"name": "selma"},
            {"name": "sum", "settings": {"merged": {"scale": 2.0}}},
        ],
        "guidances": [1.0, 3.0],
        "dev_prompts": 3,
    }


def compare(
    home: Path, address: str, run: str, *, until: Callable[[Path], bool] | None = None
) -> int | None:
    """The command's exit code; None if it was killed as soon as `until` held of its folder."""
    path = home / f"{run}.yaml"
    path.write_text(yaml.safe_dump(comparison(home, address, run)))
    command = [sys.executable, "-m", "selma", "compare", str(path)]
    command += ["--json", str(home / f"{run}.json")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while until is not None and process.poll() is None:
            if until(home / run):
                process.kill()
                process.wait()
                return None
            time.sleep(0.005)
        return process.wait()


def record(home: Path, run: str) -> dict[str, Any]:
    """What was found, without times."""
    found: dict[str, Any] = json.loads((home / f"{run}.json").read_text())
    for row in found["rows"]:
        row["cost"].pop("seconds")
    return found


@pytest.mark.kill
def test_killed_in_every_stage_it_ends_in_equal_tables(tmp_path: Path, attack: Attack) -> None:
    attack.injects("kill -9: a comparison", len(MOMENTS))
    with home(tmp_path) as address:
        assert compare(tmp_path, address, "peace") == 0
        for until in MOMENTS.values():
            assert compare(tmp_path, address, "fire", until=until) is None
        assert compare(tmp_path, address, "fire") == 0
    assert record(tmp_path, "fire") == record(tmp_path, "peace")
    files, others = tree(tmp_path / "fire"), tree(tmp_path / "peace")
    assert [name for name in files if files[name] != others.get(name)] == []
    assert files.keys() == others.keys()
    attack.held("kill -9: a comparison", len(MOMENTS))
