"""Files for Slurm, Kubernetes and SkyPilot: a stand-in for Slurm runs its scripts for real."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline.killing import home, settings, tree
from warm_selma import warm_selma

from selma import pipeline
from selma.config import RunConfig

SCALE = Path(__file__).parents[1] / "configs" / "scale"
SCRIPTS = ("submit.sh", "stage.sbatch")
SBATCH = r'''#!/usr/bin/env python3
"""Runs a job at once, as sbatch would later: an array's tasks one after another."""
import json, os, re, subprocess, sys

options, rest = [], sys.argv[1:]
while rest and rest[0].startswith("-"):
    options.append(rest.pop(0))
assert "--parsable" in options, options
log = os.environ["STANDIN_LOG"]
with open(log, "a+") as lines:
    lines.seek(0)
    before = [json.loads(line) for line in lines]
    job = 101 + len(before)
    waits = [o.partition("=")[2] for o in options if o.startswith("--dependency=")]
    for wait in waits:
        condition, _, of = wait.partition(":")
        [its] = [each for each in before if each["job"] == int(of)]
        if condition == "afterok" and any(its["codes"]):
            sys.exit("the job before has failed")
    array = [o.partition("=")[2] for o in options if o.startswith("--array=")]
    first, last = map(int, array[0].split("-")) if array else (0, 0)
    tasks = range(first, last + 1)
    codes = []
    for task in tasks:
        own = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        own["SLURM_JOB_ID"] = str(job)
        if array:
            own |= {
                "SLURM_ARRAY_JOB_ID": str(job),
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_MIN": str(first),
                "SLURM_ARRAY_TASK_MAX": str(last),
                "SLURM_ARRAY_TASK_COUNT": str(len(tasks)),
            }
        if os.environ.get("STANDIN_LOSES") == f"{rest[1]} {task}":
            codes.append(137)  # its machine was lost before it began
            continue
        codes.append(subprocess.run(["bash", *rest], env=own, stdout=sys.stderr).returncode)
    line = {"job": job, "what": rest[1], "array": array, "waits": waits, "codes": codes}
    lines.write(json.dumps(line) + "\n")
print(f"{job};cluster")
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("slurm")
    with warm_selma(place / "bin"):
        (place / "bin" / "sbatch").write_text(SBATCH)
        (place / "bin" / "sbatch").chmod(stat.S_IRWXU)
        yield place


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    with home(place) as address:
        yield address


@pytest.fixture(scope="module")
def whole(place: Path, address: str) -> dict[str, str]:
    one = config(place, address, "whole")
    pipeline.run(one)
    return tree(Path(one.run_folder))


def config(place: Path, address: str, run: str) -> RunConfig:
    return RunConfig.model_validate(settings(place, address, run=run))


def slurm(place: Path, run: str, *command: str, **more: str) -> tuple[int, list[dict[str, Any]]]:
    log = place / f"{run}.log"
    environment = os.environ | {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "STANDIN_LOG": str(log),
    }
    done = subprocess.run(command, env=environment | more, capture_output=True, timeout=500)
    jobs = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return done.returncode, jobs


def test_slurms_chain_leaves_the_files_of_one_process(
    place: Path, address: str, whole: dict[str, str]
) -> None:
    """Though the second shard of stage 2 was lost."""
    mine = config(place, address, "mine")
    file = place / "mine.yaml"
    file.write_text(yaml.safe_dump(json.loads(mine.model_dump_json())))
    command = ["bash", str(SCALE / "submit.sh"), str(file), "2"]
    code, jobs = slurm(place, "mine", *command, STANDIN_LOSES="images 2")
    assert code == 0, jobs
    assert [job["what"] for job in jobs] == [
        *("prompts", "prompts", "images", "images", "experts", "experts"),
        *("merge", "score", "run"),
    ]
    assert [bool(job["array"]) for job in jobs] == [
        *(True, False, True, False, True, False),
        *(False, True, False),
    ]
    conditions = [wait.partition(":")[0] for job in jobs for wait in job["waits"]]
    assert conditions == [*["afterany", "afterok"] * 3, "afterok", "afterany"]
    # Each waits for the one before it.
    assert [job["waits"][0].partition(":")[2] for job in jobs[1:]] == [
        str(job["job"]) for job in jobs[:-1]
    ]
    assert jobs[2]["codes"] == [0, 137]
    assert all(code == 0 for job in (*jobs[:2], *jobs[3:]) for code in job["codes"])
    assert tree(Path(mine.run_folder)) == whole


def test_a_chain_ends_where_a_stage_cannot_be_finished(place: Path, address: str) -> None:
    raw = settings(place, address, run="broken")
    raw["base"] = {"model": str(place / "missing"), "device": "cpu"}
    file = place / "broken.yaml"
    file.write_text(yaml.safe_dump(raw))
    code, jobs = slurm(place, "broken", "bash", str(SCALE / "submit.sh"), str(file), "1")
    assert code != 0
    assert {job["what"] for job in jobs} <= {"prompts", "images"}
    assert jobs[-1]["codes"] != [0]


def test_an_array_may_begin_at_any_number(place: Path) -> None:
    """As many shards as tasks, numbered from 1."""
    shown = place / "shown"
    (shown / "bin").mkdir(parents=True)
    echo = shown / "bin" / "selma"
    echo.write_text('#!/bin/bash\necho "$@" >> "$SHOWN"\n')
    echo.chmod(stat.S_IRWXU)
    own = os.environ | {"PATH": f"{shown / 'bin'}:{os.environ['PATH']}", "SHOWN": str(shown / "o")}
    for first in (0, 1, 5):
        for task in range(first, first + 3):
            array = {
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_MIN": str(first),
                "SLURM_ARRAY_TASK_COUNT": "3",
            }
            subprocess.run(
                ["bash", str(SCALE / "stage.sbatch"), "images", "a b.yaml"],
                env=own | array,
                check=True,
            )
    lines = (shown / "o").read_text().splitlines()
    assert lines == [f"images a b.yaml --shard {n}/3" for n in (1, 2, 3)] * 3


def test_slurms_signal_reaches_selma() -> None:
    """Slurm sends it to job steps alone, unless B: names the batch script, which becomes selma."""
    script = (SCALE / "stage.sbatch").read_text()
    assert "#SBATCH --signal=B:TERM@" in script
    commands = [line.strip() for line in script.splitlines() if line.strip().startswith("exec ")]
    assert len(commands) == 2 and "srun" not in script and all("selma" in c for c in commands)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse_and_ask_for_what_they_need(script: str) -> None:
    path = SCALE / script
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(path)], check=True)
    done = subprocess.run(["bash", str(path)], capture_output=True, text=True)
    assert done.returncode != 0 and "name" in done.stderr


def test_kubernetes_job_makes_every_shard_of_a_stage() -> None:
    job = yaml.safe_load((SCALE / "kubernetes.yaml").read_text())
    spec = job["spec"]
    assert (job["kind"], spec["completionMode"]) == ("Job", "Indexed")
    [container] = spec["template"]["spec"]["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(values["SHARDS"]) == spec["completions"] == spec["parallelism"]
    # A limit by index is for pods that are not restarted in place.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert all(isinstance(value, str) for value in values.values())
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert shards(container["command"], values, "JOB_COMPLETION_INDEX", 8) == [
        f"images /shared/run.yaml --shard {n}/8" for n in range(1, 9)
    ]


def test_skypilot_task_makes_every_shard_of_a_stage() -> None:
    task = yaml.safe_load((SCALE / "skypilot.yaml").read_text())
    count = task["num_nodes"]
    values = task["envs"] | {"CONFIG": "/shared/run.yaml", "SKYPILOT_NUM_NODES": str(count)}
    # Nothing of the name is in a registry: the nodes are sent the repository.
    assert task["workdir"] == "." and "install -c constraints.txt ." in task["setup"]
    command = ["bash", "-c", task["run"]]
    assert shards(command, values, "SKYPILOT_NODE_RANK", count) == [
        f"images /shared/run.yaml --shard {n}/{count}" for n in range(1, count + 1)
    ]


def shards(command: list[str], values: dict[str, str], index: str, count: int) -> list[str]:
    """What selma is called with, by a shell that really runs the command for each index."""
    own = {"PATH": os.environ["PATH"], **values}
    shell = [command[0], command[1], 'selma() { echo "$@"; }\n' + command[2].replace("exec ", "")]
    return [
        subprocess.run(
            shell, env=own | {index: str(n)}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for n in range(count)
    ]


def test_the_page_names_every_file() -> None:
    page = (SCALE.parents[1] / "docs" / "scale.md").read_text()
    for path in SCALE.iterdir():
        assert re.search(rf"configs/scale/{re.escape(path.name)}\b", page), path.name
    assert len(page.splitlines()) <= 120
