"""Several processes make one run: the same bytes, a share of the work for each, and no loss when
one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from attacks import SEED, Attack
from safetensors.numpy import load_file

from pipeline.killing import tiny_run, tree
from selma import pipeline, processes
from selma.applications.sur import pipeline as sur_pipeline
from selma.applications.sur.settings import SurRun
from selma.config import RunConfig
from selma.errors import ConfigError


def crew(folder: Path, *, kills: int, seed: int = SEED) -> dict[str, Any]:
    print(f"python tests/pipeline/crew.py FOLDER --kills {kills} --seed {seed}")
    program = str(Path(__file__).parent / "crew.py")
    done = subprocess.run(
        [sys.executable, program, str(folder), "--kills", str(kills), "--seed", str(seed)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    found["log"] = (folder / "log.txt").read_text(errors="replace")[-3000:]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crew")


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Any]:
    return crew(place, kills=2)


def test_a_run_of_two_processes_has_the_bytes_of_one(found: dict[str, Any]) -> None:
    """Pictures, answers, experts, chosen checkpoints, searched weights and scores."""
    assert found["alone"] == 0 and found["together"] == [0, 0], found["log"]
    assert found["together differs"] == []


def test_each_process_has_its_share(found: dict[str, Any]) -> None:
    for shares in found["shares"]:
        assert shares.count([8, 16]) == 2, "half of each skill's candidates"
        assert [1, 2] in shares, "one of two experts"
        assert shares.count([3, 6]) >= 4, "half of each model's exam"
    for shares in found["batch shares"]:
        assert shares.count([1, 2]) >= 16, "half of every batch"


def test_a_shared_batch_trains_as_a_whole_one(place: Path, found: dict[str, Any]) -> None:
    assert found["batch"] == [0, 0], found["log"]
    for skill in ("coco", "whoops"):
        whole, shared = (place / run / "3-experts" / skill for run in ("alone", "batch"))
        for alone, together in zip(log(whole), log(shared), strict=True):
            assert alone.keys() == together.keys()
            # Rounding grows fast at this learning rate, 0.1 a step, and otherwise on each kind of
            # processor: only the first step is compared as closely as it is computed.
            closeness = 1e-4 if alone["step"] == 1 else 5e-2
            for name, value in alone.items():
                assert together[name] == pytest.approx(value, rel=closeness), name
        weights, others = (
            load_file(folder / "pytorch_lora_weights.safetensors") for folder in (whole, shared)
        )
        assert weights.keys() == others.keys()
        for name, weight in weights.items():
            distance = np.linalg.norm(weight - others[name])
            # Half a batch would give another expert altogether.
            assert distance < 1e-2 * np.linalg.norm(weight), name


def log(expert: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (expert / "loss.jsonl").read_text().splitlines()]


def test_images_by_conditions_are_shared_and_stay_the_same(found: dict[str, Any]) -> None:
    control = found["control"]
    assert control["codes"] == [0, 0, 0, 0], found["log"]
    assert control["differs"] == []
    # Of the base's pictures and of the network's.
    assert control["shares"] == [[[3, 6], [3, 6]]] * 2


def test_all_stop_with_one_and_leave_a_checkpoint(found: dict[str, Any]) -> None:
    other, signalled = found["stopped"]
    assert (other, signalled) == (1, -signal.SIGTERM), found["log"]
    assert found["stopped at"] == ["step-000003"], "none was due before step 4"


def test_a_batch_that_cannot_be_shared_is_refused(place: Path, found: dict[str, Any]) -> None:
    assert len(found["uneven"]) == 2 and all(found["uneven"]), found["uneven says"]
    assert "2 processes can share each batch if batch_size is a multiple" in found["uneven says"]
    assert not (place / "batch" / "superseded").exists(), "nothing was begun"


def test_a_killed_process_loses_nothing(found: dict[str, Any], attack: Attack) -> None:
    told = found | {"log": found["log"][-1500:]}
    with attack("kill -9: one of two processes", 2):
        assert found["kills"] == ["ended"] * 2, told
        assert found["after kills"] == [0, 0] and found["fire differs"] == [], told


@pytest.mark.kill
@pytest.mark.parametrize("number", range(1, 3))
def test_many_kills_of_one_process(tmp_path: Path, number: int, attack: Attack) -> None:
    with attack("kill -9: one of two processes", 10):
        found = crew(tmp_path, kills=10, seed=100 * SEED + number)
        assert found["kills"] == ["ended"] * 10, found["log"][-1500:]
        assert found["after kills"] == [0, 0] and found["fire differs"] == [], found


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no",
]  # fmt: skip


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    """A run with pictures, drawn by this process."""
    folder = tmp_path_factory.mktemp("launched")
    with tiny_run(folder, run="alone") as one:
        pipeline.prompts(one)
        pipeline.images(one)
        yield one


@pytest.mark.parametrize(
    ("launcher", "stage", "before", "made", "says"),
    [
        (
            TORCHRUN,
            "images",
            ["1-prompts"],
            "2-images",
            "8 images, 8 prompts over the text encoder's token limit",
        ),
        (ACCELERATE, "prompts", [], "1-prompts", "8 prompts"),  # needs no model: half the time
    ],
    ids=["torchrun", "accelerate"],
)
def test_a_stage_runs_under_a_launcher(
    generated: RunConfig, launcher: list[str], stage: str, before: list[str], made: str, says: str
) -> None:
    folder = generated.run_folder.parent / f"launched-{stage}"
    for part in before:
        shutil.copytree(generated.run_folder / part, folder / part)
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(generated.model_dump(mode="json", exclude={"folder"})))
    command = ["-m", *launcher, "-m", "selma", stage, config, "--folder", folder]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"coco: {says}\nwhoops: {says}\n", "the main one speaks alone"
    whole = tree(generated.run_folder)
    kept = (*before, made, "run.json")
    assert tree(folder) == {name: digest for name, digest in whole.items() if name.startswith(kept)}


def test_what_is_no_stage_wants_one_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(variable, "2")
    with pytest.raises(ConfigError, match=r"but 2 were launched\. Start this command by itself"):
        sur_pipeline.train(SurRun(name="one", folder=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_process_is_on_its_own_until_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.launched() == (0, 1) and processes.main()
    with processes.together():
        assert (processes.number(), processes.count()) == (0, 1)
        assert processes.share([1, 2, 3]) == [1, 2, 3]
        assert processes.gathered({"a": 1}) == [{"a": 1}]
    others = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "3", "MASTER_PORT": "1"}
    for variable, value in others.items():
        monkeypatch.setenv(variable, value)
    assert processes.launched() == (0, 1), "a cluster's variables alone launch nothing"
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert processes.launched() == (1, 3) and processes.main()
    with processes.together():
        assert not processes.main() and processes.share(list(range(8))) == [1, 4, 7]
        with processes.alone():
            assert processes.main() and processes.share([1, 2]) == [1, 2]
        assert not processes.main()


ORPHAN = """
from datetime import timedelta
from selma import processes
processes.REACH_LAUNCHER = timedelta(seconds=1)
with processes.together():
    processes.wait()
"""


def test_a_process_whose_launcher_was_killed_does_not_look_for_it_for_ever() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    launcher = {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1, "MASTER_ADDR": "127.0.0.1"}
    launcher |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN],
        env=os.environ | {name: str(value) for name, value in launcher.items()},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "WorkspaceError: Another process of this run has stopped" in done.stderr
