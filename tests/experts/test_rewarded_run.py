"""Experts that learn from rewards in a run; killed in a round or between, they end the same."""

import json
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from pipeline.killing import home, settings, tree

from selma import pipeline
from selma.config import RunConfig
from selma.status import statuses

NFT = {
    "kind": "nft",
    "reward": "toybox",
    "prompts_per_round": 3,
    "images_per_prompt": 3,
    "updates_per_round": 2,
    "sampling_steps": 2,
    "images_kept": 2,
}


def config(folder, address, run, objective=NFT):
    raw = settings(folder, address, run=run)
    raw["prompts"] |= {"skills": ["coco"]}
    raw["experts"] |= {"objective": objective, "batch_size": 4}
    return RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run that has its images, and the address of the language model."""
    folder = tmp_path_factory.mktemp("rewarded")
    with home(folder) as address:
        pipeline.prompts(config(folder, address, "images"))
        pipeline.images(config(folder, address, "images"))
        yield folder, address


def test_a_run_tells_what_its_experts_learnt_from(runs):
    folder, address = runs
    shutil.copytree(folder / "images", folder / "peace")
    pipeline.experts(config(folder, address, "peace"))
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

    (expert / "manifest.json").unlink()  # begun, with its rounds' images beside its steps
    log = expert / "loss.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    (status,) = (s for s in statuses(config(folder, address, "peace")) if s.stage == "3-experts")
    assert (status.state, status.have, status.want) == ("partial", 5, 8)


def state(expert, number):
    return expert / "checkpoints" / f"round-{number:06d}.safetensors"


MOMENTS = {
    "in the first round": lambda expert: (expert / "rounds/000001").exists(),
    "in its steps": lambda expert: state(expert, 1).exists(),
    "between two rounds": lambda expert: (expert / "checkpoints/step-000002/state.json").exists(),
    "in the second round": lambda expert: (expert / "rounds/000002").exists(),
    "in the last": lambda expert: state(expert, 4).exists(),
}
"""Words → whether an expert's folder is there yet."""


def experts(folder, address, objective, *, until=None):
    """The command's exit code; None if it was killed as soon as `until` held of the expert."""
    raw = config(folder, address, "fire", objective).model_dump(mode="json")
    (folder / "fire.yaml").write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "selma", "experts", str(folder / "fire.yaml")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while until is not None and process.poll() is None:
            if until(folder / "fire" / "3-experts" / "coco"):
                process.kill()
                process.wait()
                return None
            time.sleep(0.002)
        return process.wait()


@pytest.mark.kill
@pytest.mark.parametrize("kind", ["nft", "ddpo", "dpok"])
def test_killed_in_rounds_and_between_them_it_ends_in_equal_bytes(runs, tmp_path, kind, attack):
    folder, address = runs
    for run in ("peace", "fire"):
        shutil.copytree(folder / "images", tmp_path / run)
    shutil.copytree(folder / "base", tmp_path / "base")
    objective = NFT | {"kind": kind}
    pipeline.experts(config(tmp_path, address, "peace", objective))
    with attack("kill -9: an expert in its rounds", len(MOMENTS)):
        kills = [experts(tmp_path, address, objective, until=until) for until in MOMENTS.values()]
        assert kills == [None] * len(MOMENTS)  # none was too late
        assert experts(tmp_path, address, objective) == 0
        assert tree(tmp_path / "fire") == tree(tmp_path / "peace")
