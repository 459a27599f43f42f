"""Experts that learn from rewards in a run: killed anywhere in a round, they end in equal bytes."""

import json
import shutil
import subprocess
import sys
import time

import pytest
import tiny
import yaml
from pipeline.killing import settings, tree
from pipeline.server import serving

from selma import pipeline
from selma.config import RunConfig

NFT = {
    "kind": "nft",
    "reward": "toybox",
    "prompts_per_round": 3,
    "images_per_prompt": 3,
    "updates_per_round": 2,
    "sampling_steps": 2,
    "images_kept": 2,
}


def config(folder, address, run):
    raw = settings(folder, address, run=run)
    raw["prompts"] |= {"skills": ["coco"]}
    raw["experts"] |= {"objective": NFT, "batch_size": 4}
    return RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with its images, and its experts made in peace."""
    folder = tmp_path_factory.mktemp("rewarded")
    tiny.build("sd1", folder / "base")
    with serving() as address:
        pipeline.prompts(config(folder, address, "peace"))
        pipeline.images(config(folder, address, "peace"))
        shutil.copytree(folder / "peace", folder / "fire")
        began = time.monotonic()
        pipeline.experts(config(folder, address, "peace"))
        yield folder, address, time.monotonic() - began


def test_a_run_tells_what_its_experts_learnt_from(runs):
    folder, *_ = runs
    expert = folder / "peace" / "3-experts" / "coco"
    manifest = json.loads((expert / "manifest.json").read_text())
    summary = manifest["summary"]
    assert summary["rounds"] == 4
    assert summary["images_generated"] == summary["images_judged"] == 36
    assert set(manifest["recipe"]["reward"]) == {"scorer"}
    assert {"rounds/check.json", "rounds/000004/rewards.jsonl"} < set(manifest["files"])
    assert not (expert / "checkpoints").exists()
    journal = (folder / "peace" / "journal.jsonl").read_text().splitlines()
    rounds = [line for line in map(json.loads, journal) if line.get("event") == "round"]
    assert [line["round"] for line in rounds] == [1, 2, 3, 4]
    assert all(line["skill"] == "coco" and line["generated"] == 9 for line in rounds)


def experts(folder, address, *, after_s=None):
    """The command's exit code; None if it was killed `after_s` seconds after it began a round."""
    raw = config(folder, address, "fire").model_dump(mode="json")
    (folder / "fire.yaml").write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "selma", "experts", str(folder / "fire.yaml")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while after_s is not None and process.poll() is None:
            if any((folder / "fire" / "3-experts").rglob("rounds")):
                time.sleep(after_s)
                process.kill()
                return None
            time.sleep(0.01)
        return process.wait()


def test_killed_anywhere_it_ends_in_equal_bytes(runs):
    folder, address, lasts = runs
    for share in (0.3, 0.6):
        experts(folder, address, after_s=share * lasts)
    assert experts(folder, address) == 0
    assert tree(folder / "fire") == tree(folder / "peace")
